"""fi.torch's modules: what a backward does to the table."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn

import fastinc as fi
from _reference import OPTIMIZERS
from _torch import device_fixture, equal, new_table, reference_bag, rows, tensor

device = device_fixture()

# --- backward -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_backward_is_one_update(device, name):
    optimizer = OPTIMIZERS[name].make(**next(iter(OPTIMIZERS[name].variants.values())))
    table, twin = (new_table(device, optimizer=copy.deepcopy(optimizer)) for _ in range(2))
    embedding = fi.torch.Embedding(table)
    ids = tensor([[4, 9], [4, -1]], device)
    for _ in range(3):
        out = embedding(ids)
        grads = torch.randn_like(out)
        out.backward(grads)
        twin.update(ids.reshape(-1), grads.reshape(-1, 4))
    assert table.version == 3
    state, expected = (t.__getstate__()["state"] for t in (table, twin))
    assert all(np.array_equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding_idx", [None, 5])
def test_gradients_of_bags_are_torchs(device, mode, padding_idx):
    table = new_table(device, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    ids, offsets = [5, 1, 5, 2, 7, 5, 1, 1], [0, 0, 3, 4, 4, 6]
    out, weight = reference_bag(table, ids, offsets, mode, padding_idx=padding_idx)
    grad = torch.randn_like(out)
    out.backward(grad)
    bag = fi.torch.EmbeddingBag(table, mode, padding_idx=padding_idx)
    bag(tensor(ids, device), tensor(offsets, device)).backward(grad.to(device))
    torch.testing.assert_close(rows(table, range(64)), -weight.grad)
    assert sorted(table.ids()) == sorted({1, 2, 5, 7} - {padding_idx})


def test_gradients_that_are_no_block_of_memory():
    table, twin = new_table(), new_table()
    out = fi.torch.Embedding(table)(tensor([1, 2]))
    out.sum().backward()  # an expanded one
    fi.torch.Embedding(twin)(tensor([1, 2])).backward(torch.ones(4, 2).T)
    assert equal(rows(table, [1, 2]), rows(twin, [1, 2]))


def test_nothing_is_left_behind(device):
    embedding = fi.torch.Embedding(new_table(device))
    embedding(tensor([1, 2], device)).sum().backward()
    assert [parameter.numel() for parameter in embedding.parameters()] == [1]
    torch.optim.AdamW(embedding.parameters(), weight_decay=0.5).step()
    assert (embedding.grad_anchor.item(), embedding.grad_anchor.grad.item()) == (0.0, 0.0)


def test_several_uses_in_a_pass_are_one_step(device):
    table, twin = new_table(device, optimizer=fi.Adagrad(lr=0.5)), new_table(device, optimizer=fi.Adagrad(lr=0.5))
    users, items = fi.torch.Embedding(table), fi.torch.EmbeddingBag(table, "sum")
    first, second, third = tensor([1, 2], device), tensor([[2, 3], [2, 2]], device), tensor([3, 1], device, torch.int32)
    loss = (users(first) * items(second)).sum() + (2 * users(third)).sum()
    weight = rows(twin, range(4)).requires_grad_()
    picked = (weight[[1, 2]] * torch.stack([weight[2] + weight[3], weight[2] + weight[2]])).sum()
    (picked + (2 * weight[[3, 1]]).sum()).backward()
    loss.backward()
    twin.update(torch.arange(1, 4, device=device), weight.grad[1:].to(device))
    assert table.version == 1
    torch.testing.assert_close(rows(table, range(4)), rows(twin, range(4)))


def test_uses_are_summed_in_the_order_of_the_forward():
    """1 + 1e8 - 1e8 depends on it."""
    table = new_table(dim=1, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    embedding = fi.torch.Embedding(table)
    uses = [embedding(tensor([7])) for _ in range(3)]
    sum(use * factor for use, factor in zip(uses, (1e8, -1e8, 1.0), strict=True)).sum().backward()
    assert rows(table, [7]).item() == -1.0


def test_tables_of_one_pass_all_step():
    tables = [new_table() for _ in range(3)]
    sum(fi.torch.Embedding(table)(tensor([1])).sum() for table in tables).backward()
    assert [table.version for table in tables] == [1, 1, 1]


def test_a_pass_that_fails_changes_nothing():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("on purpose")

    table = new_table()
    embedding, weight = fi.torch.Embedding(table), torch.ones(4, requires_grad=True)
    # The embedding's backward comes first, for its forward came last.
    loss = Fails.apply(weight).sum() + embedding(tensor([1])).sum()
    with pytest.raises(RuntimeError, match="on purpose"):
        loss.backward()
    assert table.version == 0
    embedding(tensor([2])).sum().backward()
    assert table.ids().tolist() == [2]


def test_a_second_backward_of_one_forward():
    table = new_table(optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    loss = fi.torch.Embedding(table)(tensor([1])).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert table.version == 2
    assert rows(table, [1])[0, 0] == -2.0


def test_second_derivatives_are_refused():
    bag, weights = fi.torch.EmbeddingBag(new_table(), "sum"), torch.ones(1, 2, requires_grad=True)
    loss = bag(tensor([[1, 2]]), per_sample_weights=weights).square().sum()
    (grad,) = torch.autograd.grad(loss, weights, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_bags_of_one_id_among_others():
    """Whose gradients go to the table as they are."""
    for offsets in ([0, 1, 2], [0, 0, 1], [0, 1, 1], [0, 2, 3], [0, 3, 3]):
        table, twin = (new_table(optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros()) for _ in range(2))
        out = fi.torch.EmbeddingBag(table)(tensor([4, 5, 6]), tensor(offsets))
        grad = torch.randn_like(out)
        out.backward(grad)
        twin.update([4, 5, 6], fi.ops.pool_backward(grad, tensor(offsets), 3))
        assert equal(rows(table, [4, 5, 6]), rows(twin, [4, 5, 6]))


def test_autograd_grad_steps_too():
    table = new_table()
    embedding, scale = fi.torch.Embedding(table), torch.ones(4, requires_grad=True)
    torch.autograd.grad((embedding(tensor([1])) * scale).sum(), [embedding.grad_anchor, scale])
    assert table.version == 1
    out = (embedding(tensor([1])) * scale).sum()
    torch.autograd.grad(out, scale)  # nobody asks for the rows' gradient
    assert table.version == 1


def test_reading_alone(device):
    table = new_table(device)
    embedding, ids = fi.torch.Embedding(table), tensor([1, 2], device)
    with torch.no_grad():
        assert not embedding(ids).requires_grad
    with torch.inference_mode():
        assert equal(embedding(ids), rows(table, [1, 2]))
    assert not embedding.eval()(ids).requires_grad
    assert embedding.train()(ids).requires_grad
    assert not embedding.requires_grad_(False)(ids).requires_grad
    assert len(table) == 0
    model = nn.Sequential(embedding, nn.Linear(4, 1, device=device))
    model(ids).sum().backward()
    assert table.version == 0


def test_weights_of_samples_learn_where_the_table_does_not():
    table = new_table()
    bag = fi.torch.EmbeddingBag(table, "sum").eval()
    weights = torch.ones(2, requires_grad=True)
    bag(tensor([1, 2]), tensor([0]), weights).sum().backward()
    torch.testing.assert_close(weights.grad, rows(table, [1, 2]).sum(1))
    assert table.version == 0


@pytest.mark.parametrize("padding_idx", [None, 5])
def test_gradients_of_weights_of_samples(device, padding_idx):
    table = new_table(device, optimizer=fi.SGD(lr=1.0))
    ids, offsets, numbers = [5, 1, 5, 2, 7], [0, 0, 3], torch.randn(5)
    theirs, ours = numbers.clone().requires_grad_(), numbers.to(device).requires_grad_()
    out, weight = reference_bag(table, ids, offsets, "sum", theirs, padding_idx=padding_idx)
    grad = torch.randn_like(out)
    before = rows(table, range(64))
    out.backward(grad)
    bag = fi.torch.EmbeddingBag(table, "sum", padding_idx=padding_idx)
    got = bag(tensor(ids, device), tensor(offsets, device), ours)
    torch.testing.assert_close(got.cpu(), out)
    got.backward(grad.to(device))
    torch.testing.assert_close(ours.grad.cpu(), theirs.grad)
    torch.testing.assert_close(rows(table, range(64)), before - weight.grad)


def test_bags_are_the_same_bytes_whether_weights_learn_or_not():
    table = new_table(dim=33)
    bag, ids = fi.torch.EmbeddingBag(table, "sum"), torch.randint(0, 50, (9, 70))
    weights = torch.randn(9, 70)
    assert equal(bag(ids, per_sample_weights=weights), bag(ids, per_sample_weights=weights.clone().requires_grad_()))


def test_gradcheck_of_weights_of_samples():
    bag = fi.torch.EmbeddingBag(new_table(), "sum").eval()
    ids, offsets = tensor([3, 1, 3, 2]), tensor([0, 3])
    weights = torch.randn(4, dtype=torch.float64, requires_grad=True)
    # Linear in the weights: long steps lose nothing, and float32 is good enough.
    assert torch.autograd.gradcheck(lambda w: bag(ids, offsets, w).double(), (weights,), eps=0.25, atol=1e-4)


def test_half_weights_get_half_gradients():
    weights = torch.ones(2, dtype=torch.float16, requires_grad=True)
    fi.torch.EmbeddingBag(new_table(), "sum")(tensor([[1, 2]]), per_sample_weights=weights[None]).sum().backward()
    assert weights.grad.dtype == torch.float16


def test_a_changed_learning_rate_holds_from_the_next_step():
    table = new_table(optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    embedding = fi.torch.Embedding(table)
    for lr in (1.0, 0.25):
        table.optimizer.lr = lr
        embedding(tensor([1])).sum().backward()
    assert rows(table, [1])[0, 0] == -1.25


def test_passes_in_threads():
    table = new_table(dim=8, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    embedding, errors = fi.torch.Embedding(table), []

    def train(thread):
        try:
            for step in range(50):
                embedding(tensor([thread, 100, 200 + step % 5])).sum().backward()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=train, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert table.version == 200
    assert rows(table, [100])[0, 0] == -200.0
    assert all(rows(table, [n])[0, 0] == -50.0 for n in range(4))


def test_gradients_are_not_a_leafs():
    """Autograd may make the gradient that it gives us a leaf's .grad, too, which users set to 0."""
    table, leaf = new_table(optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros()), torch.zeros(1, 1, 4, requires_grad=True)
    with fi.torch.accumulate():
        (fi.torch.Embedding(table)(tensor([1])) + leaf.squeeze(0)).backward(torch.ones(1, 4))
    leaf.grad.zero_()
    fi.torch.step()
    assert rows(table, [1])[0, 0] == -1.0


# --- several passes to a step -------------------------------------------------------------------------------


def test_accumulate(device):
    table, twin = new_table(device, optimizer=fi.Adagrad(lr=0.5)), new_table(device, optimizer=fi.Adagrad(lr=0.5))
    embedding = fi.torch.Embedding(table)
    batches = [tensor(ids, device) for ids in ([1, 2], [2, 3], [2, 2])]
    with fi.torch.accumulate():
        for ids in batches[:2]:
            embedding(ids).sum().backward()
        with fi.torch.accumulate():
            pass
        embedding(batches[0]).sum().backward()
        assert table.version == 0
    embedding(batches[2]).sum().backward()
    everything = torch.cat([*batches[:2], batches[0], batches[2]])
    twin.update(everything, torch.ones(8, 4, device=device))
    assert table.version == 1
    assert equal(rows(table, range(4)), rows(twin, range(4)))


def test_the_next_pass_of_the_same_table_takes_the_step():
    table, other = new_table(), new_table()
    embedding = fi.torch.Embedding(table, padding_idx=0)
    with fi.torch.accumulate():
        embedding(tensor([1])).sum().backward()
    fi.torch.Embedding(other)(tensor([1])).sum().backward()
    assert (table.version, other.version) == (0, 1)
    embedding(tensor([0])).sum().backward()  # nothing but padding
    assert table.ids().tolist() == [1]


def test_accumulated_gradients_outlive_the_tensors_they_came_in():
    table = new_table(optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    embedding, ids, grad = fi.torch.Embedding(table), tensor([1]), torch.ones(1, 4)
    with fi.torch.accumulate():
        embedding(ids).backward(grad)
        ids.fill_(2)
        grad.fill_(10.0)
    embedding(ids).backward(grad)
    assert rows(table, [1, 2])[:, 0].tolist() == [-1.0, -10.0]


def test_what_has_accumulated_can_be_applied_or_given_up():
    table = new_table()
    embedding = fi.torch.Embedding(table)
    for finish, version in ((fi.torch.discard, 0), (fi.torch.step, 1)):
        with fi.torch.accumulate():
            embedding(tensor([1, 2, 1])).sum().backward()
        assert table.version == 0
        assert finish() == (3 if finish is fi.torch.discard else None)
        assert table.version == version
    fi.torch.step()
    assert table.version == 1
    assert fi.torch.discard() == 0


# --- gradients that are not finite --------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_raises_and_other_tables_step():
    bad, good = new_table(), new_table()
    first, second = fi.torch.Embedding(bad), fi.torch.Embedding(good)
    for _ in range(2):
        loss = (first(tensor([1, 2])) * tensor([[1.0], [float("nan")]])).sum() + second(tensor([1])).sum()
        with pytest.raises(ValueError, match=r"grads\[1, 0\] = nan"):
            loss.backward()
    assert (bad.version, good.version) == (0, 2)
    first(tensor([1])).sum().backward()  # nothing is left of it
    assert bad.ids().tolist() == [1]


def test_gradients_that_are_not_finite_are_skipped():
    table = new_table()
    embedding = fi.torch.Embedding(table, nonfinite="skip")
    (embedding(tensor([1, 2])) * tensor([[1.0], [float("nan")]])).sum().backward()
    assert table.ids().tolist() == [1]
    assert table.stats()["skipped_nonfinite"] == 1


def test_a_scaler_that_never_sees_overflows_is_told_of():
    """The optimizer has not got the module's grad_anchor."""
    table = new_table()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    embedding = fi.torch.Embedding(table, grad_scaler=scaler)

    def overflow():
        scaler.scale((embedding(tensor([1])) * float("inf")).sum()).backward()

    for _ in range(19):
        overflow()
    with pytest.warns(RuntimeWarning, match="in 20 backward passes at the scale of 1024.0, and the table took no step"):
        overflow()
    overflow()
    assert table.version == 0


def test_grad_scaler():
    table, twin = new_table(), new_table()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    bag = fi.torch.EmbeddingBag(table, "sum", grad_scaler=scaler)
    weights = torch.ones(1, 2, requires_grad=True)
    scaler.scale(bag(tensor([[1, 2]]), per_sample_weights=weights).sum()).backward()
    twin.update([1, 2], np.ones((2, 4), np.float32))
    assert equal(rows(table, [1, 2]), rows(twin, [1, 2]))
    torch.testing.assert_close(weights.grad[0], 1024.0 * rows(new_table(), [1, 2]).sum(1))  # unscaled with the dense
    dense = torch.optim.SGD(bag.parameters(), lr=0.1)
    scaler.scale((bag(tensor([[1, 2]])) * tensor([[1.0, 1.0, 1.0, float("inf")]])).sum()).backward()
    assert table.version == 1
    scaler.step(dense)
    scaler.update()
    assert (scaler.get_scale(), bag.grad_anchor.item()) == (512.0, 0.0)

"""fi.torch's modules: what they return, and what a backward does to the table."""

import copy
import io
import pickle
import threading
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import fastinc as fi
from _reference import OPTIMIZERS


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    """Where tables and tensors are."""
    if request.param == "cuda" and not (torch.cuda.is_available() and fi.info()["cuda"]["available"]):
        pytest.skip("no GPU")
    return request.param


def new_table(device="cpu", dim=4, optimizer=None, **options):
    options.setdefault("init", fi.init.Normal(std=1.0, seed=3))
    return fi.EmbeddingTable(dim, optimizer or fi.SGD(lr=0.5), device=device, **options)


def tensor(values, device="cpu", dtype=None):
    return torch.tensor(values, device=device, dtype=dtype)


def rows(table, ids):
    return torch.from_numpy(np.asarray(table.lookup(np.asarray(ids, np.int64))))


def reference_bag(table, ids, offsets, mode, weights=None, num=64, **options):
    """torch's own on the same rows; ids below num."""
    weight = rows(table, range(num)).requires_grad_()
    out = nn.functional.embedding_bag(
        tensor(ids), weight, tensor(offsets), mode=mode, per_sample_weights=weights, **options
    )
    return out, weight


def equal(a, b):
    return torch.equal(a.cpu(), b.cpu())


# --- forward ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_embedding_has_the_shape_of_ids(device, shape, dtype):
    table = new_table(device)
    ids = torch.arange(torch.Size(shape).numel(), device=device, dtype=dtype).reshape(shape)
    out = fi.torch.Embedding(table)(ids)
    assert out.shape == (*shape, 4)
    assert out.device.type == device
    assert equal(out.detach().reshape(-1, 4), rows(table, ids.reshape(-1).cpu()))


def test_ids_that_are_no_block_of_memory():
    table = new_table()
    ids = torch.arange(12).reshape(3, 4)
    embedding, bag = fi.torch.Embedding(table), fi.torch.EmbeddingBag(table)
    assert equal(embedding(ids.T), embedding(ids.T.contiguous()))
    assert equal(embedding(ids[:, 1]), embedding(ids[:, 1].contiguous()))
    assert equal(bag(ids.T), bag(ids.T.contiguous()))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding_idx", [None, 5])
def test_bags_are_torchs(device, mode, padding_idx):
    table = new_table(device)
    ids, offsets = [5, 1, 5, 2, 7, 5, 1, 1], [0, 0, 3, 4, 4, 6, 8]
    expected, _ = reference_bag(table, ids, offsets, mode, padding_idx=padding_idx)
    bag = fi.torch.EmbeddingBag(table, mode, padding_idx=padding_idx)
    by_offsets = bag(tensor(ids, device), tensor(offsets, device))
    torch.testing.assert_close(by_offsets.cpu(), expected)
    assert equal(bag(tensor(ids, device), tensor(offsets, device, torch.int32)), by_offsets)
    lengths = np.diff([*offsets, len(ids)]).tolist()
    assert equal(bag(tensor(ids, device), lengths=tensor(lengths, device)), by_offsets)
    assert equal(bag(tensor(ids, device), lengths=tensor(lengths, device, torch.int32)), by_offsets)
    closed = fi.torch.EmbeddingBag(table, mode, padding_idx=padding_idx, include_last_offset=True)
    assert equal(closed(tensor(ids, device), tensor([*offsets, len(ids)], device)), by_offsets)


def test_bags_of_one_size(device):
    table = new_table(device)
    bag = fi.torch.EmbeddingBag(table, "sum")
    ids = tensor([[1, 2, 3], [3, 3, 4]], device)
    assert equal(bag(ids), bag(ids.reshape(-1), tensor([0, 3], device)))
    assert equal(bag(ids[:, :0]), torch.zeros(2, 4))
    assert bag(ids[:0]).shape == (0, 4)


def test_default_mode_is_torchs():
    assert fi.torch.EmbeddingBag(new_table())._use.mode == nn.EmbeddingBag(1, 1).mode == "mean"


def test_padding_is_zeros(device):
    table = new_table(device)
    out = fi.torch.Embedding(table, padding_idx=7)(tensor([[1, 7], [7, 2]], device))
    assert equal(out[0, 1], torch.zeros(4))
    assert equal(out[1, 0], torch.zeros(4))
    assert equal(out[1, 1], rows(table, [2])[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_output_dtypes(device, dtype):
    table = new_table(device, optimizer=fi.SGD(lr=1.0))
    ids = tensor([3, 9], device)
    before = rows(table, [3, 9])
    for module in (fi.torch.Embedding(table, output_dtype=dtype), fi.torch.EmbeddingBag(table, output_dtype=dtype)):
        start = rows(table, [3, 9])
        out = module(ids if isinstance(module, fi.torch.Embedding) else ids.unsqueeze(1))
        assert out.dtype == dtype
        assert equal(out.detach(), start.to(dtype))
        out.backward(torch.full_like(out, 0.3))
        assert equal(rows(table, [3, 9]), start - torch.tensor(0.3, dtype=dtype).float())
    assert not equal(rows(table, [3, 9]), before)


def test_autocast_of_a_model():
    table = new_table(dim=8)
    model = nn.Sequential(fi.torch.EmbeddingBag(table, output_dtype=torch.bfloat16), nn.Linear(8, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(tensor([[1, 2]]))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert sorted(table.ids()) == [1, 2]


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


def test_grad_scaler():
    table, twin = new_table(), new_table()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    bag = fi.torch.EmbeddingBag(table, "sum", grad_scaler=scaler)
    weights = torch.ones(1, 2, requires_grad=True)
    scaler.scale(bag(tensor([[1, 2]]), per_sample_weights=weights).sum()).backward()
    twin.update([1, 2], np.ones((2, 4), np.float32))
    assert equal(rows(table, [1, 2]), rows(twin, [1, 2]))
    torch.testing.assert_close(weights.grad[0], 1024.0 * rows(new_table(), [1, 2]).sum(1))  # unscaled with the dense
    scaler.scale((bag(tensor([[1, 2]])) * tensor([[1.0, 1.0, 1.0, float("inf")]])).sum()).backward()
    assert table.version == 1


# --- modules as modules -------------------------------------------------------------------------------------


def test_copies_have_tables_of_their_own():
    table = new_table()
    model = nn.Sequential(fi.torch.Embedding(table, padding_idx=3))
    model(tensor([1])).sum().backward()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin[0].table is not table
        assert equal(twin(tensor([1, 3])), model(tensor([1, 3])))
        twin(tensor([1])).sum().backward()
        assert (twin[0].table.version, table.version) == (2, 1)


def test_copies_keep_the_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert copy.deepcopy(fi.torch.Embedding(new_table(), grad_scaler=scaler))._use.grad_scaler is scaler


def test_copies_of_modules_that_share_a_table_share_one():
    table = new_table()
    model = copy.deepcopy(nn.ModuleList([fi.torch.Embedding(table), fi.torch.EmbeddingBag(table)]))
    assert model[0].table is model[1].table is not table


def test_a_table_stays_as_it_is():
    table = new_table()
    model = nn.Sequential(fi.torch.Embedding(table), nn.Linear(4, 1)).half()
    assert model[1].weight.dtype == model[0].grad_anchor.dtype == torch.float16
    out = model[0](tensor([1]))
    assert out.dtype == torch.float32
    out.sum().backward()
    assert table.version == 1


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant):
    """A forward that is run again in the backward reads the rows of the first time."""
    tables = [new_table(optimizer=fi.SGD(lr=1.0)) for _ in range(2)]
    scale = torch.ones(4, requires_grad=True)
    for table, checkpointed in zip(tables, (False, True), strict=True):
        embedding = fi.torch.Embedding(table)

        def run(ids, scale, embedding=embedding):
            return (embedding(ids) * scale).sin()

        ids = tensor([1, 2, 1])
        out = (
            torch.utils.checkpoint.checkpoint(run, ids, scale, use_reentrant=use_reentrant)
            if checkpointed
            else run(ids, scale)
        )
        (out.sum() + embedding(tensor([2])).sum()).backward()
    assert equal(rows(tables[0], [1, 2]), rows(tables[1], [1, 2])) or use_reentrant
    torch.testing.assert_close(rows(tables[0], [1, 2]), rows(tables[1], [1, 2]))


def test_repr_names_table_and_options():
    text = repr(fi.torch.EmbeddingBag(new_table(), "sum", padding_idx=3))
    assert text.startswith("EmbeddingBag(EmbeddingTable(dim=4")
    assert text.endswith("mode='sum', padding_idx=3)")


# --- state_dict ---------------------------------------------------------------------------------------------


def trained(optimizer, **options):
    table = new_table(optimizer=optimizer, **options)
    embedding = fi.torch.Embedding(table)
    for ids in ([1, -5], [2**40, 1, 7]):
        embedding(tensor(ids)).sum().backward()
    table.remove([7])
    return embedding


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bounds", [{}, {"max_rows": 9, "eviction": "lfu"}, {"admission": fi.MinCount(1)}])
def test_state_dicts_go_through_files(name, bounds):
    optimizer = OPTIMIZERS[name].make(**next(iter(OPTIMIZERS[name].variants.values())))
    model = nn.Sequential(trained(optimizer, **bounds), nn.Linear(4, 1))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = nn.Sequential(fi.torch.Embedding(new_table(optimizer=copy.deepcopy(optimizer), **bounds)), nn.Linear(4, 1))
    assert str(other.load_state_dict(torch.load(file, weights_only=True))) == "<All keys matched successfully>"
    for module in (model, other):
        module(tensor([1, 3])).sum().backward()
    states = [module[0].table.__getstate__()["state"] for module in (model, other)]
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_sketches_are_in_state_dicts():
    table, twin = (new_table(admission=fi.MinCount(3)) for _ in range(2))
    fi.torch.Embedding(table)(tensor([1, 1])).sum().backward()
    fi.torch.Embedding(twin).load_state_dict(fi.torch.Embedding(table).state_dict())
    twin.update([1], np.ones((1, 4), np.float32))
    assert twin.ids().tolist() == [1]


def test_state_dicts_of_modules_that_share_a_table_hold_it_once():
    table = new_table()
    model = nn.ModuleDict({"a": fi.torch.Embedding(table), "b": fi.torch.EmbeddingBag(table)})
    state = model.state_dict()
    assert state["a.weights"] is state["b.weights"]


def test_a_state_dict_that_is_filled_again_is_new():
    embedding, destination = trained(fi.SGD(lr=0.5)), OrderedDict()
    before = embedding.state_dict(destination=destination)["weights"].clone()
    embedding(tensor([1])).sum().backward()
    assert not equal(embedding.state_dict(destination=destination)["weights"], before)


def test_subclasses_have_parameters_of_their_own():
    class Scaled(fi.torch.Embedding):
        def __init__(self, table):
            super().__init__(table)
            self.scale, self.top = nn.Parameter(torch.ones(1)), nn.Linear(4, 1)

    first, second = Scaled(new_table()), Scaled(new_table())
    first.scale.data.fill_(3.0)
    assert str(second.load_state_dict(first.state_dict())) == "<All keys matched successfully>"
    assert second.scale.item() == 3.0
    assert equal(second.top.weight, first.top.weight)
    with pytest.raises(RuntimeError, match=r"Missing key.*scale"):
        second.load_state_dict({name: value for name, value in first.state_dict().items() if name != "scale"})


def test_a_state_dict_is_a_copy():
    embedding = trained(fi.SGD(lr=0.5))
    state = embedding.state_dict()
    before = state["weights"].clone()
    embedding(tensor([1])).sum().backward()
    assert equal(state["weights"], before)


def test_the_weight_of_a_torch_embedding_can_be_loaded():
    theirs = nn.Embedding(10, 4)
    embedding = fi.torch.Embedding(new_table())
    embedding.load_state_dict(theirs.state_dict())
    assert equal(embedding(torch.arange(10)), theirs(torch.arange(10)))


def test_state_dicts_that_do_not_fit():
    embedding = trained(fi.Adagrad(lr=0.5))
    before = embedding.state_dict()
    good = dict(before)
    with pytest.raises(RuntimeError, match=r"Missing key.*weights"):
        embedding.load_state_dict({name: value for name, value in good.items() if name != "weights"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        embedding.load_state_dict({**good, "other": torch.ones(1)})
    with pytest.raises(RuntimeError, match="the table: "):
        embedding.load_state_dict({**good, "weights": torch.ones(1, 4)})
    with pytest.raises(RuntimeError, match="the table: "):
        embedding.load_state_dict({"weight": torch.ones(3, 5)})
    embedding.load_state_dict({**good, "other": torch.ones(1)}, strict=False)
    after = embedding.state_dict()
    assert all(equal(after[name], before[name]) for name in before)
    with pytest.raises(RuntimeError, match=r"0\.: "):
        nn.Sequential(trained(fi.SGD(lr=0.5))).load_state_dict({f"0.{name}": value for name, value in good.items()})


# --- refusals -----------------------------------------------------------------------------------------------


def test_what_a_module_is_made_of_is_checked():
    table = new_table()
    with pytest.raises(TypeError, match="table = 3 must be a"):
        fi.torch.Embedding(3)
    with pytest.raises(ValueError, match="mode = 'max' must be 'sum' or 'mean'"):
        fi.torch.EmbeddingBag(table, "max")
    with pytest.raises(TypeError, match=r"padding_idx = 1\.5"):
        fi.torch.Embedding(table, padding_idx=1.5)
    with pytest.raises(ValueError, match=r"output_dtype = torch\.int8"):
        fi.torch.Embedding(table, output_dtype=torch.int8)
    with pytest.raises(ValueError, match="nonfinite = 'no'"):
        fi.torch.Embedding(table, nonfinite="no")
    with pytest.raises(TypeError, match="grad_scaler = 3"):
        fi.torch.Embedding(table, grad_scaler=3)
    with pytest.raises(TypeError, match="include_last_offset = 1"):
        fi.torch.EmbeddingBag(table, include_last_offset=1)
    model = fi.Recommender(dim=4)
    with pytest.raises(TypeError, match="belongs to a Recommender"):
        fi.torch.Embedding(model.item_table)


def test_what_a_forward_is_given_is_checked():
    bag, embedding = fi.torch.EmbeddingBag(new_table()), fi.torch.Embedding(new_table())
    with pytest.raises(TypeError, match="ids must be a tensor, not list"):
        embedding([1, 2])
    with pytest.raises(TypeError, match=r"ids has dtype torch\.float32"):
        embedding(torch.ones(2))
    with pytest.raises(ValueError, match=r"ids has shape \(2,\); it must be 2-D"):
        bag(tensor([1, 2]))
    with pytest.raises(ValueError, match=r"ids has shape \(1, 2\); it must be 1-D"):
        bag(tensor([[1, 2]]), tensor([0]))
    with pytest.raises(ValueError, match="offsets and lengths are both given"):
        bag(tensor([1, 2]), tensor([0]), lengths=tensor([2]))
    with pytest.raises(ValueError, match=r"per_sample_weights has shape \(3,\); ids have \(2,\)"):
        bag(tensor([1, 2]), tensor([0]), torch.ones(3))
    with pytest.raises(ValueError, match="mode='mean' with weights"):
        bag(tensor([1, 2]), tensor([0]), torch.ones(2))


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_bags_that_do_not_fit_are_refused(padding_idx):
    bag = fi.torch.EmbeddingBag(new_table(), "sum", padding_idx=padding_idx)
    ids = tensor([1, 2, 3])
    for offsets, words in (([1], r"offsets\[0\] = 1"), ([0, 2, 1], r"offsets\[2\] = 1"), ([0, 4], r"offsets\[1\] = 4")):
        with pytest.raises(ValueError, match=words):
            bag(ids, tensor(offsets))
    for lengths in ([1, 1], [4], []):
        with pytest.raises(ValueError, match=r"the bags end at \d; there are 3 ids"):
            bag(ids, lengths=tensor(lengths, dtype=torch.int64))
    closed = fi.torch.EmbeddingBag(new_table(), "sum", padding_idx=padding_idx, include_last_offset=True)
    with pytest.raises(ValueError, match="the bags end at 2; there are 3 ids"):
        closed(ids, tensor([0, 2]))
    with pytest.raises(ValueError, match="the bags end at nothing"):
        closed(ids, tensor([], dtype=torch.int64))

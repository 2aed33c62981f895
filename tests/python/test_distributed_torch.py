"""fi.torch's modules over tables whose rows are shared out over ranks."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastinc as fi
from _ranks import on_ranks

STEPS, BATCH = 12, 24


def make_parts(**options):
    return {"optimizer": fi.Adagrad(lr=0.1), "init": fi.init.Normal(std=0.5, seed=4), **options}


class Model(nn.Module):
    """A table used twice, and a network on top."""

    def __init__(self, table):
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items = fi.torch.Embedding(table), fi.torch.EmbeddingBag(table, "mean")
        self.top = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, users, items):
        return self.top(torch.cat([self.users(users), self.items(items)], 1)).squeeze(1)


def batches(world, rank):
    """Rank's part of each batch of BATCH."""
    rng, part = np.random.default_rng(3), slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for _ in range(STEPS):
        users, items = rng.zipf(1.4, BATCH) % 50, rng.zipf(1.4, (BATCH, 4)) % 50
        labels = torch.from_numpy((users % 2).astype(np.float32))
        yield torch.from_numpy(users)[part], torch.from_numpy(items)[part], labels[part]


def train(model, world, rank):
    dense = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for users, items, labels in batches(world, rank):
        loss = nn.functional.binary_cross_entropy_with_logits(model(users, items), labels)
        dense.zero_grad()
        loss.backward()
        dense.step()
        losses.append(loss.item())
    return losses


def train_rank(group):
    table = fi.distributed.ShardedTable(4, process_group=group, **make_parts())
    model = DistributedDataParallel(Model(table), process_group=group)
    losses = train(model, table.world_size, table.rank)
    return losses, table.lookup(np.arange(50)), table.version


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ddp_over_a_sharded_table_is_one_model(world):
    table = fi.EmbeddingTable(4, **make_parts())
    expected = train(Model(table), 1, 0)
    results = on_ranks(world, train_rank)
    np.testing.assert_allclose(np.mean([losses for losses, _, _ in results], 0), expected, rtol=1e-5)
    for _, rows, version in results:
        np.testing.assert_allclose(rows, table.lookup(np.arange(50)), rtol=1e-4, atol=1e-6)
        assert version == STEPS


def steps_of_rank(group):
    """Ids of all ranks, or of none but one, with weights that learn; what one table would get comes back."""
    table = fi.distributed.ShardedTable(4, process_group=group, **make_parts())
    bag, given = fi.torch.EmbeddingBag(table, "sum", padding_idx=2), []
    rng = np.random.default_rng(table.rank)
    for step in range(4):
        n = 0 if step == 2 and table.rank else 30
        ids, weights = torch.from_numpy(rng.integers(0, 20, n)), torch.rand(n).requires_grad_()
        grad = torch.from_numpy(rng.standard_normal((n, 4), dtype=np.float32))
        rows = torch.from_numpy(table.lookup(ids.numpy()))
        bag(ids.reshape(n, 1), per_sample_weights=weights.reshape(n, 1)).backward(grad)
        expected = torch.where(ids == 2, 0.0, (grad * rows).sum(1))
        torch.testing.assert_close(weights.grad, expected)
        some = (ids != 2).numpy()
        scaled = (weights.detach().unsqueeze(1) * grad) / table.world_size
        given.append((ids.numpy()[some], scaled.numpy()[some]))
    state = bag.state_dict()
    assert torch.equal(state["ids"], torch.from_numpy(table.shard.ids()))
    with torch.no_grad():
        rows = bag(torch.arange(20).reshape(20, 1)).numpy()
    return given, rows, table.version


@pytest.mark.parametrize("world", [1, 2, 4])
def test_backward_over_ranks_is_one_update_of_one_table(world):
    results = on_ranks(world, steps_of_rank)
    twin = fi.EmbeddingTable(4, **make_parts())
    for step in range(4):
        ids, grads = zip(*(given[step] for given, _, _ in results), strict=True)
        twin.update(np.concatenate(ids), np.concatenate(grads))
    expected = twin.lookup(np.arange(20))
    expected[2] = 0.0
    for _, rows, version in results:
        assert np.array_equal(rows, expected)
        assert version == twin.version


def bags_of_other_sizes(group):
    table = fi.distributed.ShardedTable(4, process_group=group, **make_parts())
    bag = fi.torch.EmbeddingBag(table, "sum")
    sizes = 1 if table.rank == 0 else 3
    bag(torch.arange(6).reshape(-1, sizes)).sum().backward()
    return table.version, table.rows()


def test_ranks_with_bags_of_one_id_and_of_several():
    assert on_ranks(2, bags_of_other_sizes) == [(1, 6), (1, 6)]


def loads(group):
    table = fi.distributed.ShardedTable(4, process_group=group, **make_parts())
    embedding = fi.torch.Embedding(table)
    embedding(torch.arange(20)).sum().backward()
    states = [None, None]
    dist.all_gather_object(states, embedding.state_dict(), group=group)
    with pytest.raises(RuntimeError, match=f"these are not rank {table.rank}'s rows of 2"):
        embedding.load_state_dict(states[1 - table.rank])
    with pytest.raises(RuntimeError, match=r"set by its load\(\)"):
        embedding.load_state_dict({"weight": torch.ones(3, 4)})
    embedding.load_state_dict(states[table.rank])
    return table.rows()


def test_a_rank_takes_no_other_ranks_rows():
    assert on_ranks(2, loads) == [20, 20]


def refuses(group):
    table = fi.distributed.ShardedTable(4, process_group=group, **make_parts())
    with pytest.raises(ValueError, match="grad_scaler: ranks of a ShardedTable"):
        fi.torch.Embedding(table, grad_scaler=torch.amp.GradScaler("cpu"))
    embedding = fi.torch.Embedding(table)
    factor = float("nan") if dist.get_rank(group) == 1 else 1.0
    with pytest.raises(ValueError, match="is not finite"):
        (embedding(torch.tensor([1])) * factor).sum().backward()
    embedding(torch.tensor([1])).sum().backward()
    return table.version


def test_a_gradient_that_one_rank_refuses_is_refused_by_all():
    assert on_ranks(2, refuses) == [1, 1]


def survives(group):
    """A batch that is refused leaves DistributedDataParallel able to go on."""
    table = fi.distributed.ShardedTable(4, process_group=group, **make_parts())
    model = DistributedDataParallel(Model(table), process_group=group)
    users, items, _ = next(batches(2, table.rank))
    for factor in (1.0, float("nan") if table.rank == 1 else 1.0, 1.0):
        model.zero_grad()
        loss = (model(users, items) * factor).sum()
        if factor != factor or (table.version == 1 and table.rank == 0):
            with pytest.raises(ValueError, match="is not finite"):
                loss.backward()
            model.zero_grad()
            loss = model(users, items).sum()
        loss.backward()
    return table.version


def test_a_refused_batch_under_ddp():
    versions = on_ranks(2, survives)
    assert versions[0] == versions[1] >= 3


def gives_arguments_that_are_refused(group):
    """Each call is wrong on rank 1 alone; the other would wait for it."""
    table = fi.distributed.ShardedTable(4, process_group=group, **make_parts())
    bag, embedding = fi.torch.EmbeddingBag(table, "sum", include_last_offset=True), fi.torch.Embedding(table)
    padded, summed = fi.torch.EmbeddingBag(table, padding_idx=3), fi.torch.EmbeddingBag(table, "sum")
    ids, wrong = torch.arange(4), table.rank == 1
    learned = torch.ones(4, requires_grad=True)
    calls = (
        lambda: bag(ids, torch.tensor([0, 4]), learned * (float("nan") if wrong else 1.0)),
        lambda: summed(ids, torch.tensor([0, 9 if wrong else 2]), learned),
        lambda: embedding(ids.float() if wrong else ids),
        lambda: bag(ids, torch.tensor([0, 2, 3 if wrong else 4])),
        lambda: bag(ids, lengths=torch.tensor([2, 3 if wrong else 2])),
        lambda: bag(ids[:2] if wrong else ids.reshape(2, 2)),
        lambda: padded(ids, torch.tensor([0, 9 if wrong else 2])),
        lambda: bag(ids.reshape(2, 2), per_sample_weights=torch.ones(2, 3 if wrong else 2)),
    )
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=None if wrong else "rank 1 refused"):
            call()
    embedding(ids).sum().backward()
    return table.version


def test_arguments_that_one_rank_refuses():
    assert on_ranks(2, gives_arguments_that_are_refused) == [1, 1]


def goes_back(group):
    with pytest.raises(TypeError, match="must be an EmbeddingTable, or a module"):
        fi.torch.to_embedding(fi.torch.Embedding(fi.distributed.ShardedTable(4, process_group=group)))
    return True


def test_a_sharded_table_is_no_torch_embedding():
    assert on_ranks(1, goes_back) == [True]

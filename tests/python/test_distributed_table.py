"""A table over the ranks of a group is one table that gets the ranks' batches one after another, to the bit."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
import torch.distributed as dist

import fastinc as fi
from _ranks import MOST, on_ranks, raised

WORLDS = list(range(1, MOST + 1))
DIM = 5
OPTIMIZERS = {
    "sgd": lambda: fi.SGD(lr=0.3, weight_decay=0.1),
    "momentum": lambda: fi.SGD(lr=0.3, momentum=0.7),
    "adagrad": lambda: fi.Adagrad(lr=0.2, weight_decay=0.05),
    "rowwise_adagrad": lambda: fi.RowWiseAdagrad(lr=0.2),
    "adam": lambda: fi.Adam(lr=0.1),
    "ftrl": lambda: fi.FTRL(lr=0.5, l1=0.01, l2=0.1),
}
F32 = np.float32


def noise(rng, n, dim=DIM):
    return (rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-3, 3, (n, dim))).astype(F32)


def zipf_batches(rng, world, size=600):
    """A batch for each rank; now and then an empty one."""
    batches = []
    for _ in range(world):
        n = int(rng.choice([0, 1, size // 4, size]))
        ids = np.where(rng.random(n) < 0.5, np.minimum(rng.zipf(1.2, n), 10**9), rng.integers(-(2**62), 2**62, n))
        batches.append((ids.astype(np.int64), noise(rng, n)))
    return batches


def hot_batches(rng, occurrences, shares):
    """One id `occurrences` times, among others, shared out unevenly."""
    ends = np.round(np.cumsum(shares) / np.sum(shares) * occurrences).astype(int)
    batches = []
    for n in np.diff(ends, prepend=0):
        ids = np.concatenate([np.full(n, 77), rng.integers(0, 30, 40)]).astype(np.int64)
        rng.shuffle(ids)
        batches.append((ids, noise(rng, len(ids))))
    return batches


def joined(batches):
    ids, values = zip(*batches, strict=True)
    return np.concatenate(ids), np.concatenate(values)


def state_of(table):
    """Rows by id: version, weights and state, as bytes."""
    state = table._core.export_state(table._state_floats())
    names = ("ids", "row_versions", "weights", "state")
    ids, *parts = (state[name] for name in names)
    return {id: tuple(part[i].tobytes() for part in parts) for i, id in enumerate(ids.tolist())}


def assert_same(sharded, one):
    """Every row of the shard is that of one table, and none is missing on all ranks together."""
    expected = state_of(one)
    mine = state_of(sharded.shard)
    assert all(expected[id] == row for id, row in mine.items())
    assert sharded.rows() == len(expected)
    assert sharded.version == one.version == sharded.shard.version


def new(group, optimizer="adagrad", init=None, admission=None, **options):
    """A sharded table, and one table like it."""
    make = OPTIMIZERS[optimizer]
    init = fi.init.Normal(std=0.1, seed=3) if init is None else init
    options |= {"process_group": group, "admission": admission}
    sharded = fi.distributed.ShardedTable(DIM, make(), init, **options)
    return sharded, fi.EmbeddingTable(DIM, make(), init, admission=admission)


# --- the same result ------------------------------------------------------------------------------------------------


def follow_one_table(group, optimizer, seed):
    rng = np.random.default_rng(seed)
    sharded, one = new(group, optimizer)
    rank, world = sharded.rank, sharded.world_size
    shares = rng.random(world) + 0.01
    batches = [zipf_batches(rng, world) for _ in range(4)]
    batches += [hot_batches(rng, n, shares) for n in (31, 63, 64, 65, 1025, 5000)]
    batches += [[(np.empty(0, dtype=np.int64), np.empty((0, DIM), dtype=F32))] * world]
    seen = 0
    for number, batch in enumerate(batches):
        assert sharded.update(*batch[rank]) == one.update(*joined(batch)) == 0
        assert_same(sharded, one)
        read = [zipf_batches(rng, world, 80)[r][0] for r in range(world)][rank]
        assert sharded.lookup(read).tobytes() == one.lookup(read).tobytes()
        offsets = np.sort(rng.integers(0, len(read) + 1, 7))
        offsets[0] = 0
        weights = rng.random(len(read)).astype(F32)
        for mode, by in (("sum", None), ("mean", None), ("sum", weights)):
            pooled = sharded.pool(read, offsets, mode, by)
            assert pooled.tobytes() == one.pool(read, offsets, mode, by).tobytes()
        if number % 3 == 2:
            changes, expected = sharded.changes(seen), one.changes(seen)
            assert changes.version == expected.version
            assert changes.updated.tolist() == sorted(expected.updated.tolist())
            assert changes.removed.tolist() == expected.removed.tolist()
            assert not changes.reset
            seen = changes.version
    assert sharded.ids().tolist() == sorted(one.ids().tolist())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("world", WORLDS)
def test_one_table(world, optimizer):
    on_ranks(world, follow_one_table, optimizer, world)


def write_in_other_ways(group):
    rng = np.random.default_rng(9)
    sharded, one = new(group)
    rank, world = sharded.rank, sharded.world_size
    for number in range(6):
        batch = zipf_batches(rng, world, 100)
        sharded.load(*batch[rank])
        one.load(*joined(batch))
        assert_same(sharded, one)
        batch = zipf_batches(rng, world, 100)
        sharded.update(*batch[rank])
        one.update(*joined(batch))
        gone = [rng.integers(0, 20, number) for _ in range(world)]  # at first none: no version
        assert sharded.remove(gone[rank]) == one.remove(np.concatenate(gone))
        assert_same(sharded, one)
    one_id = one.ids()[:1] if rank == world - 1 else []
    before = sharded.version
    sharded.remove(one_id)
    assert sharded.version == before + 1  # of every rank, where one row of one rank went
    assert sharded.remove([10**15]) == 0
    assert sharded.version == before + 1
    return sharded.changes(before).removed.tolist()


@pytest.mark.parametrize("world", WORLDS)
def test_loads_and_removes(world):
    told = on_ranks(world, write_in_other_ways)
    assert all(ids == told[0] for ids in told)
    assert len(told[0]) == 1


def changes_after_a_reset(group):
    sharded, _ = new(group)
    sharded.update(np.arange(100), np.ones((100, DIM), dtype=F32))
    if sharded.rank == 0:  # rank 0's shard knows nothing of before: it was restored
        core = sharded.shard._core
        core.import_state(core.export_state(sharded.shard._state_floats()))
    sharded.update([1], np.ones((1, DIM), dtype=F32))
    changes = sharded.changes(sharded.version - 1)
    assert changes.updated.tolist() == [1]
    sharded.remove([5])
    changes = sharded.changes(0)
    return changes.reset, changes.updated.tolist(), changes.removed.tolist()


def test_changes_after_a_reset():
    expected = [id for id in range(100) if id != 5]
    for reset, updated, removed in on_ranks(3, changes_after_a_reset):
        if reset:
            assert (updated, removed) == (expected, [])
        else:
            assert (sorted(updated), removed) == (expected, [5])


def sum_once_a_rank(group):
    rng = np.random.default_rng(4)
    sharded, one = new(group, "sgd", presum="all")
    for _ in range(4):
        batch = hot_batches(rng, 500, np.arange(1, sharded.world_size + 1))
        sharded.update(*batch[sharded.rank])
        one.update(*joined(batch))
        assert sharded.version == one.version
    ids = one.ids()
    np.testing.assert_allclose(sharded.lookup(ids), one.lookup(ids), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("world", [1, 3])
def test_presum_all(world):
    on_ranks(world, sum_once_a_rank)


# --- gradients that aren't finite -----------------------------------------------------------------------------------


def skip_and_raise(group):
    sharded, one = new(group)
    rank, world = sharded.rank, sharded.world_size
    ids = np.array([1, 2, 3, 10 + rank], dtype=np.int64)
    grads = np.ones((4, DIM), dtype=F32)
    sharded.update(ids, grads)
    one.update(*joined([(np.array([1, 2, 3, 10 + r]), grads) for r in range(world)]))
    # Of id 1 the last rank has a NaN, of 2 the ranks' sum overflows, of 3 nothing is wrong.
    bad = [grads.copy() for _ in range(world)]
    bad[-1][0, 2] = np.nan
    for part in bad:
        part[1] = 1.8e38
    batches = [(np.array([1, 2, 3, 10 + r]), bad[r]) for r in range(world)]
    before = state_of(sharded.shard)
    refused = raised(lambda: sharded.update(*batches[rank]))
    finite = raised(lambda: sharded.update(batches[rank][0][1:], batches[rank][1][1:]))
    assert state_of(sharded.shard) == before
    assert sharded.version == one.version
    skipped = one.update(*joined(batches), nonfinite="skip")
    assert sharded.update(*batches[rank], nonfinite="skip") == skipped == 2
    assert_same(sharded, one)
    only_bad = np.full((1, DIM), np.inf, dtype=F32)
    assert sharded.update([1], only_bad, nonfinite="skip") == 1
    assert sharded.version == one.version
    return refused, finite


@pytest.mark.parametrize("world", WORLDS)
def test_nonfinite(world):
    answers = on_ranks(world, skip_and_raise)
    for rank, ((kind, refused), (overflow_kind, overflow)) in enumerate(answers):
        assert kind == overflow_kind == "ValueError"
        assert "grads[0, 2] = nan is not finite; pass nonfinite='skip'" in refused
        assert (f"rank {world - 1} refused" in refused) == (rank != world - 1)
        assert "the summed gradient of id 2 overflows float32 when squared" in overflow


# --- errors ---------------------------------------------------------------------------------------------------------

GOOD = np.ones((2, DIM), dtype=F32)
INFINITE = np.where([[False], [True]], np.inf, GOOD).astype(F32)
BAD_CALLS = {
    "update dtype": ("TypeError", "grads has dtype float64", lambda t: t.update([1, 2], GOOD.astype(float))),
    "update shape": ("ValueError", "grads has shape (2, 5); it must be (3, 5)", lambda t: t.update([1, 2, 3], GOOD)),
    "update list": ("TypeError", "grads must be an array", lambda t: t.update([1, 2], [[1.0] * DIM] * 2)),
    "update order": ("ValueError", "grads is not contiguous", lambda t: t.update([1, 2], np.asfortranarray(GOOD))),
    "update ids": ("TypeError", "ids has dtype float64", lambda t: t.update(np.ones(2), GOOD)),
    "lookup ids": ("ValueError", "ids has shape (1, 2)", lambda t: t.lookup(np.array([[1, 2]]))),
    "lookup out": ("ValueError", "out has shape (2, 5); it must be (1, 5)", lambda t: t.lookup([1], out=GOOD.copy())),
    "pool mode": ("ValueError", "mode = 'max' must be 'sum' or 'mean'", lambda t: t.pool([1], [0], "max")),
    "pool offsets": ("ValueError", "offsets[0] = 1 must be 0", lambda t: t.pool([1], [1])),
    "pool weights": ("ValueError", "weights has shape (2,)", lambda t: t.pool([1], [0], "sum", np.ones(2, dtype=F32))),
    "load": ("ValueError", "vectors[1, 0] = inf is not finite", lambda t: t.load([1, 2], INFINITE)),
    "remove": ("TypeError", "ids[0] = 'a' must be an integer", lambda t: t.remove(["a"])),
    "changes": ("ValueError", "newer than the table's version", lambda t: t.changes(99)),
}
GOOD_CALLS = {
    "update": lambda t: t.update([1, 2], GOOD),
    "lookup": lambda t: t.lookup([1]),
    "pool": lambda t: t.pool([1], [0]),
    "load": lambda t: t.load([1, 2], GOOD),
    "remove": lambda t: t.remove([1]),
    "changes": lambda t: t.changes(99),
}


def refuse_on_one_rank(group):
    sharded, _ = new(group)
    answers = {}
    for name, (_, _, bad) in BAD_CALLS.items():
        call = bad if sharded.rank == 1 else GOOD_CALLS[name.split()[0]]
        answers[name] = raised(functools.partial(call, sharded))
        assert sharded.version == len(sharded.shard) == 0
    return answers


def test_what_one_rank_refuses_raises_on_all():
    answers = on_ranks(3, refuse_on_one_rank)
    for name, (kind, message, _) in BAD_CALLS.items():
        for rank, answer in enumerate(answers):
            assert answer[name] is not None, name
            assert answer[name][0] == kind, (name, answer[name])
            assert message in answer[name][1], (name, answer[name])
            assert ("rank 1 refused" in answer[name][1]) == (rank != 1 and name != "changes"), answer[name]


def test_torch_distributed_must_be_started():
    assert not dist.is_initialized()
    with pytest.raises(RuntimeError, match="init_process_group"):
        fi.distributed.ShardedTable(4)


# --- what goes in and comes out -------------------------------------------------------------------------------------


def use_tensors(group):
    sharded, _ = new(group)
    rng = np.random.default_rng(sharded.rank)
    ids, grads = torch.tensor([3, 9, 3, -4]), torch.from_numpy(noise(rng, 4))
    sharded.update(ids, grads)
    assert isinstance(sharded.lookup(ids), np.ndarray)
    out = torch.full((4, DIM), 7.0)
    assert sharded.lookup(ids.int(), out=out) is out
    assert out.numpy().tobytes() == sharded.lookup(ids.numpy()).tobytes()
    bags = torch.zeros((2, DIM))
    weights = torch.rand(4)
    assert sharded.pool(ids, torch.tensor([0, 3]), "sum", weights, out=bags) is bags
    assert bags.numpy().tobytes() == sharded.pool(ids.tolist(), [0, 3], "sum", weights.numpy()).tobytes()
    frozen = grads.numpy()
    frozen.flags.writeable = False
    sharded.update(ids, frozen)
    sharded.load(ids, frozen)
    assert "read-only" in raised(lambda: sharded.lookup(ids, out=frozen))[1]
    masked = np.ma.MaskedArray(grads.numpy(), mask=False)
    assert "masked" in raised(lambda: sharded.update(ids, masked))[1]
    assert sharded.lookup([]).shape == (0, DIM)
    assert sharded.pool([], [0, 0]).tolist() == [[0.0] * DIM] * 2
    sharded._check_writable("update")
    assert (sharded.dim, sharded.device, sharded.wire, sharded.presum) == (DIM, "cpu", "float32", "exact")
    assert sharded.optimizer == OPTIMIZERS["adagrad"]()
    assert sharded.memory_usage()["total"] > 0
    assert not hasattr(sharded, "__len__")  # it would be collective, and hidden


def test_tensors():
    on_ranks(2, use_tensors)


def ask_ahead(group):
    sharded, _ = new(group)
    ids = np.arange(50, dtype=np.int64) * (sharded.rank + 1)
    sharded.update(ids, np.ones((50, DIM), dtype=F32))
    then = sharded.lookup(ids)
    first, second = sharded.prefetch(ids), sharded.prefetch(ids[::-1].copy())
    sharded.update(ids, np.ones((50, DIM), dtype=F32))  # while they travel
    out = np.empty((50, DIM), dtype=F32)
    assert second.rows(out=out) is out
    assert out.tobytes() == then[::-1].tobytes()
    assert first.rows().tobytes() == first.rows().tobytes() == then.tobytes()
    assert sharded.lookup(ids).tobytes() != then.tobytes()


def test_prefetch():
    on_ranks(3, ask_ahead)


# --- bytes and eight bits -------------------------------------------------------------------------------------------


def measure_bytes(group, wire, presum):
    dim, n = 64, 3000
    sharded = fi.distributed.ShardedTable(dim, fi.SGD(lr=1.0), process_group=group, wire=wire, presum=presum)
    rng = np.random.default_rng(sharded.rank)
    ids = rng.integers(0, 2**40, n)
    if presum == "all":
        ids = np.concatenate([ids, np.repeat(np.arange(200), 5)])  # repeats, which all ranks have
    sharded.lookup(ids)
    looked = sharded.stats()
    sharded.update(ids, rng.standard_normal((len(ids), dim)).astype(F32))
    stats = sharded.stats()
    wire_of = stats["wire"]
    sent = {kind: wire_of[kind]["sent"] for kind in wire_of}
    ids_for_lookup = looked["wire"]["ids"]["sent"]
    assert looked["looked_up"] == stats["updated"] == ids_for_lookup // 8
    return (
        (ids_for_lookup + looked["wire"]["rows"]["received"]) / looked["looked_up"],
        (sent["ids"] - ids_for_lookup + sent.get("counts", 0) + wire_of.get("replies", {"received": 0})["received"]
         + sent["gradients"]) / stats["updated"],
        sent["headers"],
    )  # fmt: skip


@pytest.mark.parametrize("presum", ["exact", "all"])
@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_bytes_of_an_id(wire, presum):
    budget = 1.1 * 64 * 4 + 16
    budget *= 0.35 if wire == "int8" else 1.0
    for lookup, update, headers in on_ranks(2, measure_bytes, wire, presum):
        assert 0 < lookup <= budget
        assert 0 < update <= budget
        assert 0 < headers <= 500


def learn_by_eight_bits(group):
    rng = np.random.default_rng(11)
    sharded, one = new(group, "sgd", wire="int8")
    rank, world = sharded.rank, sharded.world_size
    rows = noise(rng, 300)
    ids = np.arange(300)
    sharded.load(ids[rank::world].copy(), rows[rank::world].copy())  # float32, whatever the wire
    one.load(ids, rows)
    assert_same(sharded, one)
    span = np.ptp(one.lookup(ids), axis=1, keepdims=True)
    assert (np.abs(sharded.lookup(ids) - one.lookup(ids)) <= span / 509).all()
    assert sharded.lookup([10**9]).any()  # a row that is not there yet
    grads = [noise(rng, 300) for _ in range(world)]
    batch = [(ids, grads[r]) for r in range(world)]
    sharded.update(*batch[rank])
    before = one.lookup(ids)
    one.update(*joined(batch))
    off = 0.3 * sum(np.ptp(part, axis=1, keepdims=True) for part in grads) / 509
    found = sharded.shard.lookup(ids[np.isin(ids, sharded.shard.ids())])
    exact, allowed = (x[np.isin(ids, sharded.shard.ids())] for x in (one.lookup(ids), off))
    assert (np.abs(found - exact) <= allowed + 1e-5 * np.abs(exact)).all()
    assert (before != one.lookup(ids)).any()
    bad = grads[rank].copy()
    if rank == world - 1:
        bad[7, 1] = np.nan
        bad[8] = np.inf
    assert sharded.update(ids, bad, nonfinite="skip") == 2
    assert "nan is not finite" in raised(lambda: sharded.update(ids, bad))[1]


@pytest.mark.parametrize("world", [1, 3])
def test_eight_bits(world):
    on_ranks(world, learn_by_eight_bits)


# --- limits ---------------------------------------------------------------------------------------------------------


def keep_within_limits(group):
    world = dist.get_world_size(group)
    options = {"process_group": group, "max_rows": 21 * world - 1}
    sharded = fi.distributed.ShardedTable(DIM, fi.SGD(), eviction="lfu", **options)
    for start in range(0, 400, 10):
        sharded.update(np.arange(start, start + 10), np.ones((10, DIM), dtype=F32))
    assert len(sharded.shard) == 20
    assert sharded.rows() == 20 * world
    assert sharded.max_rows == 21 * world - 1
    before = sharded.version, sharded.ids().tolist()
    many = np.arange(1000, 2000)
    for call in (
        lambda: sharded.update(many, np.ones((1000, DIM), dtype=F32)),
        lambda: sharded.update(many, np.ones((1000, DIM), dtype=F32), nonfinite="skip"),
        lambda: sharded.load(many, np.ones((1000, DIM), dtype=F32)),
    ):
        assert "split the batch" in raised(call)[1]
        assert (sharded.version, sharded.ids().tolist()) == before
    timed = fi.distributed.ShardedTable(DIM, process_group=group, eviction=fi.TTL(3600.0))
    timed.update([5], np.ones((1, DIM), dtype=F32))
    assert timed.expire() == 0
    assert timed.version == 1


@pytest.mark.parametrize("world", [1, 2])
def test_limits(world):
    on_ranks(world, keep_within_limits)


def admit_as_one_table(group, presum):
    rng = np.random.default_rng(3)
    sharded, one = new(group, admission=fi.MinCount(6), presum=presum)
    refused = 0
    for _ in range(5):
        batch = zipf_batches(rng, sharded.world_size, 120)
        batch[0] = hot_batches(rng, 150, [1])[0]
        sharded.update(*batch[sharded.rank])
        one.update(*joined(batch))
        assert sorted(sharded.ids().tolist()) == sorted(one.ids().tolist())
        assert sharded.version == one.version
        if presum == "exact":
            assert_same(sharded, one)
        refused = sharded.shard.stats()["refused"]
    return refused, one.stats()["refused"]


@pytest.mark.parametrize("presum", ["exact", "all"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_admission(world, presum):
    answers = on_ranks(world, admit_as_one_table, presum)
    assert sum(refused for refused, _ in answers) == answers[0][1] > 0


def test_changes_have_no_more_fields():
    """ShardedTable.changes() makes them: a new field needs a merge there."""
    assert [field.name for field in dataclasses.fields(fi.Changes)] == ["version", "updated", "removed", "reset"]

"""Checkpoints of sharded tables: of any number of ranks, into any other, whole or not at all."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")

import fastinc as fi
from _ranks import on_ranks, raised, run_ranks
from fastinc.distributed._owners import owners_of
from test_distributed_table import DIM, F32, OPTIMIZERS, assert_same, joined, new, state_of, zipf_batches


def streams(world, steps, seed):
    """The same events for any number of ranks: a batch for each step, cut into so many."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids, grads = joined(zipf_batches(rng, 4, 200))
        cuts = np.sort(rng.integers(0, len(ids) + 1, 3))[: world - 1]
        yield list(zip(np.split(ids, cuts), np.split(grads, cuts), strict=True))


def train_and_save(group, folder, optimizer):
    sharded, one = new(group, optimizer)
    for batch in streams(sharded.world_size, 4, 1):
        sharded.update(*batch[sharded.rank])
        one.update(*joined(batch))
    fi.distributed.save(sharded, folder, position={"step": 4})
    assert_same(sharded, one)


def load_and_train(group, folder, optimizer):
    sharded, position = fi.distributed.load(folder, group)
    assert position == {"step": 4}
    one = new(group, optimizer)[1]
    for batch in streams(1, 4, 1):
        one.update(*batch[0])
    assert_same(sharded, one)
    for batch in streams(sharded.world_size, 3, 2):
        sharded.update(*batch[sharded.rank])
        one.update(*joined(batch))
    assert_same(sharded, one)
    assert sharded.optimizer == OPTIMIZERS[optimizer]()


@pytest.mark.parametrize(("before", "after"), [(1, 3), (4, 2), (2, 4), (3, 3), (2, 3)])
def test_reshard(before, after, tmp_path):
    optimizer = ["adam", "adagrad", "rowwise_adagrad", "ftrl", "momentum"][before]
    on_ranks(before, train_and_save, str(tmp_path / "c"), optimizer)
    on_ranks(after, load_and_train, str(tmp_path / "c"), optimizer)


def save_again(group, folder):
    sharded, _ = new(group)
    for step in range(3):
        sharded.update([step], np.ones((1, DIM), dtype=F32))
        fi.distributed.save(sharded, folder, position=step)
    return fi.distributed.load(folder, group)[1]


def test_a_save_replaces_the_one_before(tmp_path):
    assert on_ranks(2, save_again, str(tmp_path)) == [2, 2]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert names[0] == "manifest.json"
    assert names[1].startswith("shard-0of2-")
    assert names[2].startswith("shard-1of2-")


def load_raises(group, folder):
    return raised(lambda: fi.distributed.load(folder, group))


def test_incomplete_folders(tmp_path):
    good = tmp_path / "good"
    assert "holds no checkpoint" in on_ranks(2, load_raises, str(good))[1][1]
    on_ranks(3, train_and_save, str(good), "adagrad")
    names = json.loads((good / "manifest.json").read_text())["shards"]

    def broken(name):
        shutil.copytree(good, tmp_path / name)
        return tmp_path / name

    missing = broken("missing")
    shutil.rmtree(missing / names[2])
    empty = broken("empty")
    (empty / names[1] / "manifest.json").unlink()
    other = broken("other")
    table = fi.EmbeddingTable(DIM, OPTIMIZERS["adagrad"]())
    table.update([1], np.ones((1, DIM), dtype=F32))
    shutil.rmtree(other / names[1])
    fi.checkpoint.save(table, other / names[1])
    damaged = broken("damaged")
    arrays = next((damaged / names[0]).glob("*.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-8])
    text = broken("text")
    (text / "manifest.json").write_text((good / "manifest.json").read_text().replace('"step": 4', '"step": 5'))
    for folder, kind, message in (
        (missing, "FileNotFoundError", f"{missing / names[2]} doesn't exist"),
        (empty, "FileNotFoundError", f"{empty / names[1]} holds no checkpoint"),
        (other, "ValueError", f"{other / names[1]} is of version 1; the checkpoint is of version 4"),
        (damaged, "ValueError", "it is truncated or damaged"),
        (text, "ValueError", "doesn't match its own SHA-256"),
    ):
        for answer in on_ranks(2, load_raises, str(folder)):
            assert answer is not None, folder
            assert answer[0] == kind, answer
            assert message in answer[1], answer


def refuse_to_save(group, folder):
    sharded, _ = new(group)
    with pytest.raises(TypeError, match="must be a ShardedTable"):
        fi.distributed.save(sharded.shard, folder)
    return raised(lambda: fi.distributed.save(sharded, folder, position={1} if sharded.rank else 1))


def test_refused_positions(tmp_path):
    for kind, message in on_ranks(2, refuse_to_save, str(tmp_path)):
        assert kind == "TypeError"
        assert "is not JSON" in message
    assert list(tmp_path.iterdir()) == []


def save_into_folders_of_their_own(group, folder):
    sharded, _ = new(group)
    sharded.update([1, 2, 3], np.ones((3, sharded.dim), np.float32))
    return raised(lambda: fi.distributed.save(sharded, f"{folder}/{sharded.rank}"))


def test_folders_that_not_all_ranks_see(tmp_path):
    for kind, message in on_ranks(2, save_into_folders_of_their_own, str(tmp_path)):
        assert kind == "FileNotFoundError"
        assert "all ranks must see one folder" in message
    assert not list(tmp_path.glob("*/manifest.json"))


def keep_limits(group, folder, save):
    if save:
        sharded = fi.distributed.ShardedTable(
            DIM, process_group=group, max_rows=120, eviction="lfu", admission=fi.MinCount(2), wire="int8", presum="all"
        )
        for step in range(12):
            ids = np.arange(10 * step, 10 * step + 40)
            sharded.update(ids, np.ones((40, DIM), dtype=F32))
        sharded.update([10**6 + sharded.rank], np.ones((1, DIM), dtype=F32))  # one sighting
        sharded.remove(np.array([101, 103]))
        assert "free_slots" in sharded.shard._core.export_state(sharded.shard._state_floats())
        fi.distributed.save(sharded, folder)
    else:
        sharded, _ = fi.distributed.load(folder, group)
        assert (sharded.max_rows, sharded.shard.eviction, sharded.wire) == (120, "lfu", "int8")
        assert sharded.shard.admission == fi.MinCount(2)
    state = sharded.shard._core.export_state(sharded.shard._state_floats())
    uses = dict(zip(state["ids"].tolist(), state["frequencies"].tolist(), strict=True))
    rows = {id: (uses[id], *row) for id, row in state_of(sharded.shard).items()}
    assert len(rows) <= 120 // sharded.world_size
    if not save:
        sharded.update([10**6] if sharded.rank == 0 else [], np.ones((int(sharded.rank == 0), DIM), dtype=F32))
        assert 10**6 in sharded.ids()  # its second sighting
    return rows


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_limits(after, tmp_path):
    saved = {id: row for rows in on_ranks(2, keep_limits, str(tmp_path), True) for id, row in rows.items()}
    loaded = {id: row for rows in on_ranks(after, keep_limits, str(tmp_path), False) for id, row in rows.items()}
    if after <= 2:
        assert loaded == saved
    assert loaded.items() <= saved.items()
    assert (len(loaded) < len(saved)) == (after >= 3)
    ids = np.array(sorted(saved))
    owners = dict(zip(ids.tolist(), owners_of(ids, after).tolist(), strict=True))
    for rank in range(after):  # those went that it would have evicted first
        keys = {id: (row[0], int.from_bytes(row[1], "little")) for id, row in saved.items() if owners[id] == rank}
        gone = [key for id, key in keys.items() if id not in loaded]
        assert len(keys) - len(gone) == min(len(keys), 120 // after)
        assert max(gone, default=(0, 0)) <= min(key for id, key in keys.items() if id in loaded)


def die_while_saving(group, folder, monkey):
    import os

    from fastinc.distributed import _checkpoint

    sharded, position = fi.distributed.load(folder, group)
    sharded.update([1], np.ones((1, DIM), dtype=F32))
    if sharded.rank == 0:
        if monkey == "manifest":
            _checkpoint._manifest.write = lambda *_: os._exit(1)
    elif monkey == "shard":
        _checkpoint.save_shard = lambda *_: os._exit(1)
    answer = raised(lambda: fi.distributed.save(sharded, folder, position=99))
    return position, answer


@pytest.mark.parametrize(("monkey", "dies"), [("shard", 1), ("manifest", 0)])
def test_a_rank_that_dies_leaves_the_old_checkpoint(monkey, dies, tmp_path):
    on_ranks(2, train_and_save, str(tmp_path), "sgd")
    answers = run_ranks(2, die_while_saving, str(tmp_path), monkey, group_timeout=15, may_die=(dies,))
    assert answers[dies] is None
    position, error = answers[1 - dies]
    assert position == {"step": 4}
    assert error[0] == "RuntimeError"
    on_ranks(3, load_and_train, str(tmp_path), "sgd")

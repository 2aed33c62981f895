"""Defects that were found by hand, each kept out by a test."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import fastinc as fi


def test_a_row_that_overflowed_hides_no_other() -> None:
    rng = np.random.default_rng(0)
    table = fi.EmbeddingTable(4, fi.SGD(lr=1e38))
    vectors = rng.standard_normal((500, 4), dtype=np.float32)
    table.load(np.arange(500), vectors)
    for _ in range(3):
        table.update([0], np.full((1, 4), 1e4, np.float32))
    assert not np.isfinite(table.lookup([0])).any()
    query = rng.standard_normal(4, dtype=np.float32)
    for metric, key in (("ip", -vectors @ query), ("l2", ((vectors - query) ** 2).sum(1))):
        best = [i for i in np.argsort(key, kind="stable") if i != 0][:5]
        scores, ids = fi.LiveIndex(table, metric=metric).search(query, k=5)
        assert [i for i in ids.tolist() if i != 0][: len(best) - 1] == best[: len(best) - 1]
        assert not np.isnan(scores).any()


@pytest.mark.parametrize(
    "position",
    [{9: "a", 10: "b"}, {"p": {1: 2}}, float("nan"), np.int64(3), {1, 2}],
    ids=["keys", "nested", "nan", "np", "set"],
)
def test_a_position_that_would_not_come_back_keeps_the_old_checkpoint(tmp_path: Path, position: object) -> None:
    table = fi.EmbeddingTable(2)
    fi.checkpoint.save(table, tmp_path, position={"0": [1, 2]})
    with pytest.raises(TypeError, match=r"^position = "):
        fi.checkpoint.save(table, tmp_path, position=position)
    assert fi.checkpoint.load(tmp_path)[1] == {"0": [1, 2]}


def test_a_subclass_that_could_not_be_loaded_is_refused(tmp_path: Path) -> None:
    class Mine(fi.Adagrad):
        pass

    fi.checkpoint.save(fi.EmbeddingTable(3), tmp_path)
    with pytest.raises(TypeError, match="Mine"):
        fi.checkpoint.save(fi.EmbeddingTable(2, Mine()), tmp_path)
    assert fi.checkpoint.load(tmp_path)[0].dim == 3


def test_numpy_scalars_in_an_initializer_can_be_saved(tmp_path: Path) -> None:
    table = fi.EmbeddingTable(2, init=fi.init.Normal(std=np.float32(0.1), seed=np.int64(3)))  # type: ignore[arg-type]
    fi.checkpoint.save(table, tmp_path)
    assert fi.checkpoint.load(tmp_path)[0].lookup([7]).tobytes() == table.lookup([7]).tobytes()


def test_saving_leaves_other_files_alone(tmp_path: Path) -> None:
    mine = tmp_path / "arrays-mine.safetensors"
    mine.write_bytes(b"mine")
    for dim in (2, 3):
        fi.checkpoint.save(fi.EmbeddingTable(dim), tmp_path)
    assert mine.read_bytes() == b"mine"
    assert len(list(tmp_path.glob("arrays-*"))) == 2
    assert not list(tmp_path.glob(".*"))


def test_threads_that_save_into_one_folder_leave_a_whole_checkpoint(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def save(dim: int) -> None:
        try:
            for _ in range(10):
                fi.checkpoint.save(fi.EmbeddingTable(dim), tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(dim,)) for dim in (2, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert fi.checkpoint.load(tmp_path)[0].dim == 2


def test_recommending_goes_on_while_a_million_events_are_learned() -> None:
    events = fi.datasets.synthetic(60_000, n_users=500, n_items=1000, seed=1)
    model = fi.Recommender(dim=32).partial_fit_events(events[:1000])
    learner = threading.Thread(target=model.partial_fit_events, args=(events[1000:],))
    learner.start()
    waits = []
    while learner.is_alive():
        start = time.perf_counter()
        model.recommend(events.users[0], k=3)
        waits.append(time.perf_counter() - start)
    learner.join()
    assert model.n_events == 60_000
    assert len(waits) > 10
    assert np.median(waits) < 0.2


@pytest.mark.parametrize("factory", ["HNSW1", "NSG1", "HNSW1,Flat"])
def test_factories_that_end_the_process_are_refused(factory: str) -> None:
    with pytest.raises(ValueError, match="at least 2 neighbours"):
        fi.LiveIndex(fi.EmbeddingTable(8), factory, metric="l2")


def test_a_lazily_negated_tensor_is_refused() -> None:
    table = fi.EmbeddingTable(4)
    negated = torch._neg_view(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"^grads is a lazily negated tensor"):
        table.update([1], negated)
    with pytest.raises(ValueError, match=r"^queries .*lazily negated"):
        fi.LiveIndex(table).search(negated)


def test_masked_arrays_are_refused() -> None:
    table = fi.EmbeddingTable(2)
    with pytest.raises(TypeError, match=r"^grads is a masked array"):
        table.update([1], np.ma.masked_array(np.ones((1, 2), np.float32), mask=True))
    with pytest.raises(TypeError, match=r"^users is a masked array"):
        fi.Recommender().partial_fit(np.ma.masked_array([1], mask=[True]), [1])


def test_output_that_shares_memory_with_input_is_refused() -> None:
    table = fi.EmbeddingTable(2)
    buffer = np.zeros(8, np.int64)
    offsets = buffer[:6]
    offsets[:] = range(6)
    with pytest.raises(ValueError, match=r"^offsets shares memory with out"):
        table.pool(np.arange(6), offsets, out=buffer[2:].view(np.float32).reshape(6, 2))
    weights = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"^grads shares memory with weights"):
        fi.ops.sgd_update(weights, np.arange(3), weights)


def test_a_misspelled_parameter_is_an_error() -> None:
    optimizer = fi.Adagrad()
    with pytest.raises(AttributeError, match="learning_rate"):
        optimizer.learning_rate = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"^lr = True"):
        optimizer.lr = True


def test_removing_one_by_one_is_not_quadratic() -> None:
    def seconds(rows: int) -> float:
        table = fi.EmbeddingTable(1)
        ids = np.arange(rows)
        table.load(ids, np.zeros((rows, 1), np.float32))
        start = time.perf_counter()
        for i in range(rows):
            table.remove(ids[i : i + 1])
        return time.perf_counter() - start

    seconds(1000)
    assert seconds(80_000) < 30 * seconds(10_000)  # 64 times if quadratic, 8 if not


def test_a_fork_ignores_what_the_environment_became() -> None:
    code = (
        "import os, fastinc as fi; fi.get_num_threads(); os.environ['FASTINC_NUM_THREADS'] = 'abc'; pid = os.fork();\n"
        "os._exit(0) if pid == 0 else None\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ}).returncode == 0


def test_mixed_ids_are_not_turned_into_strings() -> None:
    with pytest.raises(TypeError, match=r"^users"):
        fi.Recommender().partial_fit([1, "a"], [5, 6])
    with pytest.raises(TypeError, match=r"^users"):
        fi.datasets.Events(users=[1, "a"], items=[1, 2])  # type: ignore[arg-type]


def test_strings_keep_their_nuls_in_a_model() -> None:
    model = fi.Recommender().partial_fit(["u", "u"], ["x", "x\0"])
    assert model.n_items == 2

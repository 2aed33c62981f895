"""What a LiveIndex over FAISS does in the background: when it folds and rebuilds, what fails, how its thread ends."""

import os
import signal
import threading
import time
import weakref

import numpy as np
import pytest

import fastinc as fi
from _brute_force import assert_index, eventually, make_table


@pytest.mark.parametrize("factory", ["IVF16,Flat", "Flat"])
@pytest.mark.parametrize("kind", ["the same rows", "rows that come and go"])
def test_few_rows_written_often_are_folded(factory, kind):
    """A search goes through every write since the last fold."""
    rng = np.random.default_rng(4)
    table = make_table(range(3000), rng.standard_normal((3000, 4)))
    index = fi.LiveIndex(table, factory)
    query = np.ones((1, 4), dtype=np.float32)
    for k in range(300):
        ids = np.arange(50) if kind == "the same rows" else 10_000 + 50 * k + np.arange(50)
        table.load(ids, rng.standard_normal((50, 4)).astype(np.float32))
        if kind != "the same rows":
            table.remove(ids)
    assert index._base.core.count_logged() >= 15_000
    assert index._base.core.count_unfolded() <= 50
    eventually(lambda: index.search(query, 5) and index._base.core.count_logged() == 0)
    assert index.stats()["rebuilds"] == 1
    assert_index(index, query, 5) if factory == "Flat" else index.search(query, 5)


def test_rebuild_when_enough_has_changed():
    rng = np.random.default_rng(9)
    table = make_table(range(1000), rng.standard_normal((1000, 4)))
    index = fi.LiveIndex(table, "Flat", rebuild_share=0.1, rebuild_rows=20)
    query = np.ones(4, dtype=np.float32)
    assert index.stats()["rebuilds"] == 1
    table.load(range(100), rng.standard_normal((100, 4)).astype(np.float32))
    index.search(query)
    stats = index.stats()
    assert (stats["rebuilds"], stats["fresh_rows"], stats["masked_rows"]) == (1, 100, 100)
    table.remove([500])
    index.search(query)
    eventually(lambda: index.stats()["rebuilds"] == 2)
    stats = index.stats()
    assert (stats["fresh_rows"], stats["masked_rows"], stats["error"]) == (0, 0, None)
    assert stats["base_version"] == table.version
    assert stats["last_rebuild_seconds"] > 0
    table.load([3], np.ones((1, 4), dtype=np.float32))
    index.compact()
    assert index.stats()["base_version"] == table.version
    table.remove(range(1000))
    assert index.search(query, 3)[1].tolist() == [-1, -1, -1]
    eventually(lambda: index.stats()["base_version"] is None)
    assert index.stats()["base_rows"] == 0
    assert "0 rows" in index.stats()["exact_because"]


def test_nothing_is_built_behind_the_back_of_who_wants_it_so():
    rng = np.random.default_rng(9)
    table = make_table(range(1000), rng.standard_normal((1000, 4)))
    index = fi.LiveIndex(table, "IVF4,Flat", rebuild_rows=0, rebuild_share=0.0, fold_rows=0, background=False)
    threads = threading.active_count()
    table.load(range(500), rng.standard_normal((500, 4)).astype(np.float32))
    for _ in range(3):
        assert_index(index, np.ones((1, 4), dtype=np.float32), 5, nprobe=4)
    assert (index.stats()["rebuilds"], index.stats()["folds"]) == (1, 0)
    assert threading.active_count() == threads
    assert index.fold() == 500
    assert index.fold() == 0
    index.compact()
    assert (index.stats()["rebuilds"], index.stats()["folds"]) == (2, 1)


def test_exact_until_there_is_enough_to_train_on():
    rng = np.random.default_rng(10)
    table = make_table(range(100), rng.standard_normal((100, 4)))
    index = fi.LiveIndex(table, "IVF16,Flat")
    queries = rng.standard_normal((3, 4)).astype(np.float32)
    assert "training takes 624" in index.stats()["exact_because"]
    assert_index(index, queries, 120)
    with pytest.raises(ValueError, match="efSearch = 8"):
        index.search(queries, efSearch=8)
    table.load(range(1000, 1600), rng.standard_normal((600, 4)).astype(np.float32))
    assert_index(index, queries, 10, nprobe=16)
    eventually(lambda: index.stats()["base_rows"] == 700)
    assert index.stats()["exact_because"] is None
    assert_index(index, queries, 10, nprobe=16)


def test_drift_calls_for_new_centroids():
    rng = np.random.default_rng(16)
    table = make_table(range(4000), rng.standard_normal((4000, 8)))
    index = fi.LiveIndex(table, "IVF16,Flat", metric="l2", rebuild_share=100.0, rebuild_rows=500, fold_rows=100)
    query = np.zeros(8, dtype=np.float32)
    table.load(range(1000), rng.standard_normal((1000, 8)).astype(np.float32))
    index.search(query)
    eventually(lambda: index.stats()["folds"] == 1)
    assert index.stats()["far_share"] < 0.15
    index.search(query)
    assert index.stats()["rebuilds"] == 1
    table.load(range(2000), 5.0 + rng.standard_normal((2000, 8)).astype(np.float32))
    index.search(query)
    eventually(lambda: index.search(query) and index.stats()["rebuilds"] == 2)
    assert index.stats()["far_share"] == 0.0


def test_what_goes_wrong_in_the_background_is_told(monkeypatch):
    rng = np.random.default_rng(17)
    table = make_table(range(1000), rng.standard_normal((1000, 4)))
    index = fi.LiveIndex(table, "Flat", rebuild_rows=0, rebuild_share=0.0)
    monkeypatch.setattr(index._factory, "build", lambda *_: 1 // 0)
    table.load([5], np.ones((1, 4), dtype=np.float32))
    assert_index(index, np.ones((1, 4), dtype=np.float32), 5)
    eventually(lambda: index.stats()["error"] is not None)
    assert "ZeroDivisionError" in index.stats()["error"]
    assert_index(index, np.ones((1, 4), dtype=np.float32), 5)
    monkeypatch.undo()
    index.compact()
    assert index.stats()["error"] is None


def test_a_build_that_fails_is_not_tried_all_the_time(monkeypatch):
    rng = np.random.default_rng(19)
    table = make_table(range(1000), rng.standard_normal((1000, 4)))
    index = fi.LiveIndex(table, "Flat", rebuild_rows=0, rebuild_share=0.0)
    builds = []

    def build(*_):
        builds.append(1)
        raise MemoryError("none left")

    monkeypatch.setattr(index._factory, "build", build)
    table.load([5], np.ones((1, 4), dtype=np.float32))
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        assert_index(index, np.ones((1, 4), dtype=np.float32), 5)
    assert builds == [1]
    assert index.stats()["error"] == "MemoryError: none left"
    with pytest.raises(MemoryError, match="none left"):
        index.compact()
    assert index.stats()["base_rows"] == 1000


def test_compact_builds_from_the_table_as_it_is_now(monkeypatch):
    rng = np.random.default_rng(23)
    table = make_table(range(1000), rng.standard_normal((1000, 4)))
    index = fi.LiveIndex(table, "Flat", background=False)
    build, under_way, go_on = index._factory.build, threading.Event(), threading.Event()

    def slow(*arguments):
        under_way.set()
        assert go_on.wait(20)
        return build(*arguments)

    monkeypatch.setattr(index._factory, "build", slow)
    table.load([5], np.ones((1, 4), dtype=np.float32))
    other = threading.Thread(target=index.compact)
    other.start()
    assert under_way.wait(20)
    table.load([6], np.ones((1, 4), dtype=np.float32))
    mine = threading.Thread(target=index.compact)
    mine.start()
    go_on.set()
    other.join()
    mine.join()
    assert index.stats()["base_version"] == table.version


def test_a_search_does_without_a_thread(monkeypatch):
    rng = np.random.default_rng(24)
    table = make_table(range(1000), rng.standard_normal((1000, 4)))
    index = fi.LiveIndex(table, "Flat", rebuild_rows=0, rebuild_share=0.0)

    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    table.load([5], np.ones((1, 4), dtype=np.float32))
    assert_index(index, np.ones((1, 4), dtype=np.float32), 5)
    index._background.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_while_a_base_is_built(monkeypatch):
    rng = np.random.default_rng(25)
    table = make_table(range(1000), rng.standard_normal((1000, 4)))
    index = fi.LiveIndex(table, "IVF4,Flat", rebuild_rows=0, rebuild_share=0.0)
    build, under_way, go_on = index._factory.build, threading.Event(), threading.Event()

    def slow(*arguments):
        under_way.set()
        go_on.wait(20)
        return build(*arguments)

    monkeypatch.setattr(index._factory, "build", slow)
    table.load([5], np.ones((1, 4), dtype=np.float32))
    index.search(np.ones(4, dtype=np.float32))
    assert under_way.wait(20)
    child = os.fork()
    if child == 0:  # no pytest here, whatever happens
        try:
            monkeypatch.undo()
            fine = index.search(np.ones(4, dtype=np.float32), 3)[1].shape == (3,)
            index.fold()
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    go_on.set()
    end = time.monotonic() + 20
    done = (0, 0)
    while done == (0, 0) and time.monotonic() < end:
        done = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done == (child, 0), "the child hangs, or failed"


def test_rows_that_are_gone_are_fresh_no_more():
    rng = np.random.default_rng(26)
    table = make_table(range(2000), rng.standard_normal((2000, 4)))
    index = fi.LiveIndex(table, "IVF4,Flat", background=False)
    table.load(range(5000, 5500), rng.standard_normal((500, 4)).astype(np.float32))
    index.search(np.ones(4, dtype=np.float32))
    assert index._everywhere == 500  # so all is scanned
    table.remove(range(5000, 5500))
    time.sleep(0.06)
    index.search(np.ones(4, dtype=np.float32))
    assert index._everywhere == 0


def test_the_thread_ends_with_its_index(monkeypatch):
    monkeypatch.setattr("fastinc._background.IDLE", 0.05)
    before = threading.active_count()
    table = make_table(range(1000), np.ones((1000, 4)))

    def use_one():
        index = fi.LiveIndex(table, "Flat", rebuild_rows=0, rebuild_share=0.0)
        for number in range(3):
            table.load([5], np.full((1, 4), number, dtype=np.float32))
            index.search(np.ones(4, dtype=np.float32))
            eventually(lambda wanted=number + 2: index.stats()["rebuilds"] >= wanted)
            eventually(lambda: threading.active_count() == before)  # idle; the next work starts another
        table.load([5], np.ones((1, 4), dtype=np.float32))
        index.search(np.ones(4, dtype=np.float32))
        return weakref.ref(index)

    gone = use_one()
    eventually(lambda: gone() is None)
    eventually(lambda: threading.active_count() == before)

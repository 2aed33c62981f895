"""Many threads at one table: whole rows only, the GIL released, forks."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import fastinc as fi

SECONDS = 1.0


def run_threads(functions, seconds=SECONDS):
    """Run each function(stop) in a thread until time is up; raise what the first of them raised."""
    stop, errors = threading.Event(), []

    def guarded(function):
        try:
            function(stop)
        except BaseException as error:
            errors.append(error)
            stop.set()

    workers = [threading.Thread(target=guarded, args=(f,)) for f in functions]
    for worker in workers:
        worker.start()
    stop.wait(seconds)
    stop.set()
    for worker in workers:
        worker.join(60)
    if errors:
        raise errors[0]


# --- whole rows only ----------------------------------------------------------------------------------------

IDS, DIM = np.arange(400) * 7 - 1000, 48


def counting_table():
    """Every number of every row is how many batches have been applied: start 0, step +1."""
    table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), fi.init.Zeros())
    grads = np.full((len(IDS), DIM), -1, np.float32)
    table.update(IDS, grads)
    return table, grads


def by_lookup(table):
    return table.lookup(IDS)


def by_pool(table):
    return table.pool(IDS, np.arange(0, len(IDS), 50), "mean")


def by_codes(table):
    codes = table.lookup_quantized(IDS)
    assert not codes[:, :DIM].any()
    return np.ascontiguousarray(codes[:, DIM + 4 :]).view(np.float32)


def by_state(table):
    return table.__getstate__()["state"]["weights"]


@pytest.mark.parametrize("read", [by_lookup, by_pool, by_codes, by_state])
def test_readers_see_whole_rows_and_what_has_returned(read, threads):
    table, grads = counting_table()
    reads = [0, 0, 0]

    def write(stop):
        while not stop.is_set():
            table.update(IDS, grads)

    def reader(k):
        def loop(stop):
            last = 1.0
            while not stop.is_set():
                at_least = table.version
                seen = np.asarray(read(table))
                at_most = table.version + 1  # a batch may be at work
                assert (seen == seen[:, :1]).all(), "a torn row"
                assert (seen >= np.maximum(last, at_least)).all(), "older than a read or an update that had returned"
                assert (seen <= at_most).all(), "newer than the batch at work"
                if read is by_state:
                    assert len(np.unique(seen)) == 1, "a state of several versions"
                last = seen[:, :1]
                reads[k] += 1

        return loop

    run_threads([write, *(reader(k) for k in range(3))], 0.5)
    assert table.version > 5
    assert min(reads) > 5
    assert np.unique(table.lookup(IDS)).tolist() == [table.version]


def test_changes_and_versions_are_of_one_moment():
    """A batch writes all ids: of any moment, either all have changed since, or none."""
    table, grads = counting_table()

    def write(stop):
        while not stop.is_set():
            table.update(IDS, grads)

    def read(stop):
        while not stop.is_set():
            since = table.version
            changes = table.changes(since)
            assert len(changes.updated) == (len(IDS) if changes.version > since else 0)

    run_threads([write, read, read])


def test_rows_stay_while_the_table_grows_and_shrinks():
    """New pages, a rehashed map and reused slots, under the eyes of readers."""
    table, _ = counting_table()
    expected = table.lookup(IDS)

    def write(stop):
        block = 2**40
        while not stop.is_set():
            new = np.arange(block, block + 3000)
            table.update(new, np.ones((3000, DIM), np.float32))
            if block % 2:
                table.remove(np.arange(block - 1, block + 2999))
            block += 3001

    def read(stop):
        while not stop.is_set():
            np.testing.assert_array_equal(table.lookup(IDS), expected)
            assert set(IDS.tolist()) <= set(table.ids().tolist())

    run_threads([write, read, read])


def test_writers_lose_nothing():
    """Whole numbers, so sums are exact in any order."""
    table = fi.EmbeddingTable(8, fi.SGD(lr=1.0), fi.init.Zeros())
    shared, rounds = np.arange(100), 150

    def writer(k):
        def loop(stop):
            own = np.arange(1000 * (k + 1), 1000 * (k + 1) + 50)
            for _ in range(rounds):
                table.update(np.r_[shared, own, shared], np.full((250, 8), -1, np.float32))
            stop.set() if k == 0 else None

        return loop

    run_threads([writer(k) for k in range(4)], 60)
    assert table.version == 4 * rounds
    np.testing.assert_array_equal(table.lookup(shared), 4 * 2 * rounds)
    for k in range(4):
        np.testing.assert_array_equal(table.lookup(np.arange(1000 * (k + 1), 1000 * (k + 1) + 50)), rounds)


def test_updates_of_separate_arrays_at_once():
    """The pool serves one call at a time; the others run on their own threads, with the same bytes."""
    rng = np.random.default_rng(0)
    ids, grads = rng.integers(0, 500, 5000), rng.standard_normal((5000, 32)).astype(np.float32)
    expected = np.zeros((500, 32), np.float32)
    fi.ops.sgd_update(expected, ids, grads)

    def work(stop):
        while not stop.is_set():
            weights = np.zeros((500, 32), np.float32)
            fi.ops.sgd_update(weights, ids, grads)
            np.testing.assert_array_equal(weights, expected)

    run_threads([work] * 4)


def test_threads_and_isa_may_change_while_others_work():
    before = fi.get_num_threads(), fi.get_isa()
    table, grads = counting_table()

    def write(stop):
        while not stop.is_set():
            table.update(IDS, grads)

    def switch(stop):
        k = 0
        while not stop.is_set():
            fi.set_num_threads(1 + k % 3)
            fi.set_isa(fi.info()["isas"][k % len(fi.info()["isas"])])
            k += 1

    try:
        run_threads([write, write, switch], 0.5)
    finally:
        fi.set_num_threads(before[0])
        fi.set_isa(before[1])
    assert np.unique(table.lookup(IDS)).tolist() == [table.version]


def test_recommend_while_learning():
    events = fi.datasets.synthetic(4000, n_users=50, n_items=400, seed=1)
    model = fi.Recommender(dim=16, user="both", negatives=20)
    model.partial_fit(events.users[:500], events.items[:500])

    def learn(stop):
        at = 500
        while not stop.is_set():
            model.partial_fit(events.users[at : at + 50], events.items[at : at + 50])
            at = (at + 50) % 4000

    def ask(stop):
        users = np.unique(events.users)
        while not stop.is_set():
            ids, scores = model.recommend(users, k=10, exclude_seen=False)
            assert np.isfinite(scores).all()
            assert (np.diff(scores, axis=1) <= 0).all()
            assert all(len(set(row)) == 10 for row in ids.tolist())
            assert np.isfinite(model.user_vectors(users)).all()
            assert np.isfinite(model.predict(events.users[:50], events.items[:50])).all()
            model.similar_items(events.items[:5], k=5)

    run_threads([learn, ask, ask])


# --- the GIL ------------------------------------------------------------------------------------------------


class Ticker:
    """A Python thread that notes the time, over and over: its longest pause is how long it couldn't run."""

    def __enter__(self):
        self._stop = threading.Event()
        self._ticks = [time.perf_counter()]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        while not self._stop.is_set():
            self._ticks.append(time.perf_counter())
            time.sleep(0.0005)

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()

    def longest_pause(self, begin, end):
        ticks = np.array([begin, *(t for t in self._ticks if begin < t < end), end])
        return float(np.diff(ticks).max())


def big_batch(n=400_000, dim=32):
    rng = np.random.default_rng(0)
    return rng.integers(0, 100_000, n), rng.standard_normal((n, dim)).astype(np.float32)


def table_call(method):
    ids, grads = big_batch()
    table = fi.EmbeddingTable(32, fi.SGD(lr=0.1))
    table.update(ids, grads)
    offsets = np.arange(0, len(ids), 4)
    calls = {
        "update": lambda: table.update(ids, grads),
        "load": lambda: table.load(ids, grads),
        "lookup": lambda: table.lookup(ids),
        "lookup_quantized": lambda: table.lookup_quantized(ids),
        "pool": lambda: table.pool(ids, offsets),
        "changes": lambda: table.changes(0),
        "ids": table.ids,
    }
    return calls[method]


def ops_call(method):
    ids, grads = big_batch()
    weights = np.zeros((100_000, 32), np.float32)
    codes = fi.ops.quantize_rowwise(grads)
    calls = {
        "sgd_update": lambda: fi.ops.sgd_update(weights, ids, grads),
        "quantize_rowwise": lambda: fi.ops.quantize_rowwise(grads, out=codes),
        "dequantize_rowwise": lambda: fi.ops.dequantize_rowwise(codes, out=grads),
    }
    return calls[method]


def model_call(method):
    events = fi.datasets.synthetic(20_000, n_users=500, n_items=3000, seed=1)
    model = fi.Recommender(dim=64)
    model.partial_fit(events.users[:5000], events.items[:5000])
    users = np.tile(np.unique(events.users), 4)
    rest, many_items = slice(5000, None), np.tile(events.items, 50)
    calls = {
        "partial_fit": lambda: model.partial_fit(events.users[rest], events.items[rest]),
        "recommend": lambda: model.recommend(users, k=50),
        "predict": lambda: model.predict(events.users, events.items),
        "similar_items": lambda: model.similar_items(np.unique(events.items)[:200]),
        "user_vectors": lambda: model.user_vectors(np.tile(users, 100)),
        "item_codes": lambda: model.item_codes(many_items),
    }
    return calls[method]


GIL_CALLS = [
    *((table_call, m) for m in ("update", "load", "lookup", "lookup_quantized", "pool", "changes", "ids")),
    *((ops_call, m) for m in ("sgd_update", "quantize_rowwise", "dequantize_rowwise")),
    *((model_call, m) for m in ("partial_fit", "recommend", "predict", "similar_items")),
    *((model_call, m) for m in ("user_vectors", "item_codes")),
]


@pytest.mark.parametrize(("make", "method"), GIL_CALLS, ids=lambda value: value if isinstance(value, str) else None)
def test_other_python_threads_run_during_a_call(one_thread, make, method):
    """Nothing holds the GIL for most of a long call. Tried again on a noisy machine; a held GIL never passes."""
    call = make(method)
    for _ in range(4):
        with Ticker() as ticker:
            time.sleep(0.01)
            begin = time.perf_counter()
            while time.perf_counter() < begin + 0.03:
                started = time.perf_counter()
                call()
                ended = time.perf_counter()
        taken = ended - started
        pause = ticker.longest_pause(started, ended)
        if taken < 0.004 or pause < max(0.5 * taken, 0.003):
            return
    raise AssertionError(f"no other Python thread ran for {pause:.4f} s of a call of {taken:.4f} s")


READS_THAT_WAIT = {
    "len": len,
    "version": lambda table: table.version,
    "lookup of one id": lambda table: table.lookup([5]),
    "in": lambda table: 5 in table,
    "stats": lambda table: table.stats(),
    "memory_usage": lambda table: table.memory_usage(),
    "a small update": lambda table: table.update([5], np.ones((1, 32), np.float32)),
}


@pytest.mark.parametrize("name", READS_THAT_WAIT)
def test_a_call_that_waits_for_a_writer_lets_others_run(one_thread, name):
    """One thread writes for long, a second asks the table for something small; a third must not stand still."""
    ids, grads = big_batch(2_000_000, 32)
    table = fi.EmbeddingTable(32, fi.SGD(lr=0.1))
    table.update(ids[:1000], grads[:1000])
    assert_third_thread_runs(lambda: table.update(ids, grads), lambda: READS_THAT_WAIT[name](table))


@pytest.mark.parametrize("name", ["user_vectors", "stats", "memory_usage", "recommend", "item_table"])
def test_a_call_that_waits_for_a_learner_lets_others_run(one_thread, name):
    events = fi.datasets.synthetic(30_000, n_users=500, n_items=3000, seed=1)
    model = fi.Recommender(dim=64)
    model.partial_fit(events.users[:100], events.items[:100])
    asks = {
        "user_vectors": lambda: model.user_vectors([1]),
        "stats": model.stats,
        "memory_usage": model.memory_usage,
        "recommend": lambda: model.recommend(1),
        "item_table": lambda: model.item_table.lookup([0]),
    }
    assert_third_thread_runs(lambda: model.partial_fit(events.users, events.items), asks[name])


def assert_third_thread_runs(write, ask):
    for _ in range(3):
        writer = threading.Thread(target=write)
        with Ticker() as ticker:
            begin = time.perf_counter()
            writer.start()
            time.sleep(0.05)
            while writer.is_alive():
                ask()
            writer.join()
            end = time.perf_counter()
        pause, taken = ticker.longest_pause(begin, end), end - begin
        assert taken > 0.08, "the writer was too quick to tell"
        if pause < 0.5 * (taken - 0.05):
            return
    raise AssertionError(f"no other Python thread ran for {pause:.3f} s of the {taken:.3f} s that a writer took")


# --- forks --------------------------------------------------------------------------------------------------

FORK = """
import multiprocessing
import sys
import numpy as np
import fastinc as fi

fi.set_num_threads(4)
rng = np.random.default_rng(0)
ids, grads = rng.integers(0, 3000, 20_000), rng.standard_normal((20_000, 32)).astype(np.float32)

def work(table):
    table.update(ids, grads)
    return table.lookup(range(3000)).tobytes()

def child(table, queue):
    threads = fi.get_num_threads()
    fi.set_num_threads(3)  # a new pool takes the place of the parent's, whose threads aren't here
    queue.put((threads, work(table)))

table = fi.EmbeddingTable(32)
work(table)  # the pool's threads run now
context = multiprocessing.get_context("fork")
queue = context.Queue()
children = [context.Process(target=child, args=(table, queue)) for _ in range(2)]
for process in children:
    process.start()
results = [queue.get(timeout=60) for _ in children]
for process in children:
    process.join(60)
    assert process.exitcode == 0, process.exitcode
mine = work(table)
assert all(result == (4, mine) for result in results), "a child computed something else"
print("same bytes")
"""


def test_a_forked_child_can_update():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "same bytes\n"), done.stderr


FORK_DURING_CALLS = """
import os
import threading
import numpy as np
import fastinc as fi

fi.set_num_threads(4)
rng = np.random.default_rng(0)
ids, grads = rng.integers(0, 3000, 20_000), rng.standard_normal((20_000, 32)).astype(np.float32)

def work():
    weights = np.zeros((3000, 32), np.float32)
    fi.ops.sgd_update(weights, ids, grads)
    return weights.tobytes()

expected, stop = work(), threading.Event()

def busy():
    while not stop.is_set():
        work()

workers = [threading.Thread(target=busy) for _ in range(2)]
for worker in workers:
    worker.start()
codes = []
for k in range(20):
    child = os.fork()
    if child == 0:
        fi.set_num_threads(2 + k % 3)
        os._exit(0 if work() == expected and work() == expected else 1)
    codes.append(os.waitpid(child, 0)[1])
stop.set()
for worker in workers:
    worker.join()
print(set(codes))
"""


def test_a_fork_during_calls_of_other_threads():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_DURING_CALLS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "{0}\n"), done.stderr

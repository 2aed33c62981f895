"""Replicas: in step with a leader that goes on, restarts, compacts, fails and is killed."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import fastinc as fi
from _logs import learn, new_table
from fastinc.checkpoint import Log, _restoring
from fastinc.replica import _replica, _tail


def rows_of(table):
    ids = np.sort(table.ids())
    return dict(zip(ids.tolist(), map(bytes, table.lookup(ids)), strict=True))


def events(n, seed=0, users=40, items=60):
    rng = np.random.default_rng(seed)
    return rng.integers(0, users, n), rng.integers(0, items, n), np.arange(n, dtype=np.float64)


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


@pytest.fixture
def follow():
    """Follow, fast, and close at the end."""
    replicas = []

    def start(path, **options):
        replicas.append(fi.replica.follow(path, **{"poll": 0.01, **options}))
        return replicas[-1]

    yield start
    for replica in replicas:
        replica.close()


def test_a_table_is_followed_row_by_row(tmp_path, follow):
    table = new_table(max_rows=50, eviction="lru")
    rng = np.random.default_rng(0)
    with Log(tmp_path, compact=None) as log:
        learn(table, [1, 2, 3])
        log.append(table, position=0)
        replica = follow(tmp_path)
        served = replica.model
        assert replica.search(np.ones((1, 2), dtype=np.float32), 3)[1].shape == (1, 3)
        for step in range(1, 30):
            learn(table, rng.integers(0, 90, 20), step)
            table.remove(rng.integers(0, 90, 5))
            entry = log.append(table, position=step)
            replica.wait(entry.number)
            assert rows_of(served) == rows_of(table)
            assert (replica.number, replica.position, replica.version) == (entry.number, step, table.version)
            assert replica.lookup([5, 10**6]).tobytes() == table.lookup([5, 10**6]).tobytes()
            ids = replica.search(np.ones((1, 2), dtype=np.float32), 50)[1]
            assert set(ids[ids >= 0].tolist()) == set(table.ids().tolist())  # no removed row is served
        assert replica.model is served
        assert replica.stats()["resyncs"] == 0
        assert replica.stats()["applied"] == 29


def test_a_recommender_is_followed(tmp_path, follow):
    users, items, times = events(900)
    names = np.array([f"item {i}" for i in range(60)], dtype=object)
    model = fi.Recommender(dim=8, negatives=10)
    with Log(tmp_path, compact=None) as log:
        log.append(model.partial_fit(users[:100], names[items[:100]], timestamps=times[:100]))
        replica = follow(tmp_path)
        for begin in range(100, 900, 100):
            part = slice(begin, begin + 100)
            model.partial_fit(users[part], names[items[part]], timestamps=times[part])
            replica.wait(log.append(model, position=begin).number)
            for user in (0, 7, 10**6):
                mine, theirs = replica.recommend(user, 5), model.recommend(user, 5)
                assert mine[0].tolist() == theirs[0].tolist()
                assert mine[1].tobytes() == theirs[1].tobytes()
        query = model.user_vectors([3])
        _, found = replica.search(query, 4)
        assert found[0][0] == model.recommend(3, 1, exclude_seen=False)[0][0]
        assert replica.lookup(["item 3"]).shape == (1, 9)
        with pytest.raises(ValueError, match=r"ids\[1\] = 'no such' is not a known item"):
            replica.lookup(["item 3", "no such"])
        assert replica.stats()["resyncs"] == 0


def test_lag_counts_what_isnt_taken_in(tmp_path, follow):
    table = new_table()
    with Log(tmp_path) as log:
        learn(table, [1])
        log.append(table)
        replica = follow(tmp_path)
        assert replica.lag() == (0, 0, 0.0)
        replica._stop.set()  # it stands still
        replica._thread.join()
        for step in range(3):
            learn(table, [step])
            learn(table, [step])
            log.append(table)
        time.sleep(0.02)
        lag = replica.lag()
        assert (lag.records, lag.versions) == (3, 6)
        assert 20.0 <= lag.milliseconds < 60_000.0


def test_lag_behind_a_base_counts_from_that(tmp_path, follow):
    with Log(tmp_path) as log:
        log.append(new_table())
        replica = follow(tmp_path)
        replica._stop.set()  # it stands still
        replica._thread.join()
        time.sleep(0.1)
        entry = log.append(new_table())
        lag = replica.lag()
        assert lag.records == 1
        assert 0.0 <= lag.milliseconds <= 1e3 * (time.time() - entry.time)
        manifest = tmp_path / "base-0000000000000002" / "manifest.json"
        manifest.write_bytes(manifest.read_bytes()[:-9])
        assert replica.lag().milliseconds >= 100.0  # since what it has


def test_a_leader_that_starts_again_goes_on(tmp_path, follow):
    table = new_table()
    learn(table, range(20))
    with Log(tmp_path) as log:
        log.append(table)
    replica = follow(tmp_path)
    for step in range(4):
        with Log(tmp_path) as log:
            table, _ = log.restore()
            learn(table, [step, 100 + step], step)
            replica.wait(log.append(table).number)
        assert rows_of(replica.model) == rows_of(table)
    assert replica.stats()["resyncs"] == 0


def test_a_base_in_between_is_loaded_anew(tmp_path, follow):
    table, other = new_table(), new_table()
    learn(table, [1, 2, 3])
    learn(other, [7, 8, 9])
    with Log(tmp_path) as log:
        log.append(table)
        replica = follow(tmp_path)
        replica.search(np.ones((1, 2), dtype=np.float32))
        replica.wait(log.append(other).number)
        assert rows_of(replica.model) == rows_of(other)
        assert set(replica.search(np.ones((1, 2), dtype=np.float32), 3)[1][0].tolist()) == {7, 8, 9}
        learn(other, [10])
        replica.wait(log.append(other).number)
        assert rows_of(replica.model) == rows_of(other)
    assert replica.stats()["resyncs"] == 1


def test_a_base_after_increments_is_loaded_once(tmp_path, follow):
    """As after a rollback; the records before it are another's past, and as they were."""
    table, other = new_table(), new_table()
    learn(other, [7, 8, 9])
    with Log(tmp_path) as log:
        for step in range(3):
            learn(table, [step])
            log.append(table)
        replica = follow(tmp_path)
        replica.wait(log.append(table).number)
        replica.wait(log.append(other).number)
        assert rows_of(replica.model) == rows_of(other)
        time.sleep(0.2)  # some looks of the replica
        assert (replica.stats()["resyncs"], replica.error) == (1, None)
        learn(other, [10])
        replica.wait(log.append(other).number)
        assert rows_of(replica.model) == rows_of(other)
        assert (replica.stats()["resyncs"], replica.error) == (1, None)


@pytest.mark.parametrize("begun", [False, True])
def test_a_base_that_is_anothers_is_noticed_before_there_are_records(tmp_path, begun):
    """Also where the file of the next record is there, and has none: its writer was killed."""
    for name, step in (("log", 0), ("other", 1)):
        table = new_table()
        learn(table, [1], step)
        with Log(tmp_path / name) as log:
            log.append(table)
        if begun:
            (tmp_path / name / "increments-0000000000000002.log").touch()
    path = tmp_path / "log"
    tail = _tail.LogTail(path, _restoring.restore(path, None))
    assert list(tail.records()) == []
    shutil.rmtree(path)
    os.rename(tmp_path / "other", path)
    with pytest.raises(_tail.LostError, match="number 1 is gone, or not what it was"):
        list(tail.records())
    tail.close()


def test_compaction_and_retention_before_it_read_on(tmp_path, follow, monkeypatch):
    table = new_table()
    learn(table, range(10))
    with Log(tmp_path, keep=1, compact=None) as log:
        log.append(table)
        replica = follow(tmp_path)
        asleep = threading.Lock()
        take_in = _replica.Replica._take_in
        monkeypatch.setattr(_replica.Replica, "_take_in", lambda self, served: asleep.locked() or take_in(self, served))
        for step in range(6):
            with asleep:
                for _ in range(2):
                    for _ in range(3):
                        learn(table, [step, 50 + step], step)
                        last = log.append(table).number
                    if step % 2 == 0:
                        log.compact()  # twice: what it hasn't read is gone
            replica.wait(last)
            assert rows_of(replica.model) == rows_of(table)
        assert replica.stats()["resyncs"] >= 1
        assert replica.error is None


def test_records_that_were_never_durable_are_given_up(tmp_path, follow):
    """What was read of a leader whose machine then lost it, or whose append failed, is replaced by what is there."""
    table = new_table()
    learn(table, [1, 2])
    with Log(tmp_path, compact=None) as log:
        log.append(table)
        learn(table, [3])
        log.append(table)
        (segment,) = tmp_path.glob("increments-*.log")
        durable = segment.stat().st_size
        twin = table.to("cpu")
        learn(twin, [4])
        log.append(twin)  # a base: only its rows matter below
        learn(table, [5])
    with Log(tmp_path / "other", compact=None) as log:
        log.append(twin)
    shutil.rmtree(tmp_path / "base-0000000000000003")
    with Log(tmp_path, compact=None) as log:
        mine, _ = log.restore()
        learn(mine, [4])
        log.append(mine)
    replica = follow(tmp_path)
    assert replica.number == 3
    assert 4 in replica.model
    for path in tmp_path.glob("increments-*3.log"):
        path.unlink()
    with open(segment, "r+b") as file:
        file.truncate(durable)  # record 3 is gone
    with Log(tmp_path, compact=None) as log:
        again, _ = log.restore()
        learn(again, [6])
        assert log.append(again).number == 3
        until(lambda: rows_of(replica.model) == rows_of(again))  # it may have loaded what there was before the append
    assert replica.stats()["resyncs"] > 0


def test_a_half_written_record_is_waited_for(tmp_path, follow):
    table = new_table()
    learn(table, [1])
    with Log(tmp_path, compact=None) as log:
        log.append(table)
        learn(table, [2])
        log.append(table)
    (segment,) = tmp_path.glob("increments-*.log")
    whole = segment.read_bytes()
    segment.write_bytes(whole[: len(whole) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        replica = follow(tmp_path)
    assert replica.number == 1
    time.sleep(0.1)
    assert replica.number == 1
    assert replica.error is None
    segment.write_bytes(whole)
    replica.wait(2)
    assert rows_of(replica.model) == rows_of(table)


def test_damage_is_told_and_what_was_there_is_served(tmp_path, follow, monkeypatch):
    monkeypatch.setattr(_tail, "PATIENCE", 0.05)
    monkeypatch.setattr(_replica, "_RETRY", 0.02)
    table = new_table()
    learn(table, [1])
    with Log(tmp_path, compact=None) as log:
        log.append(table)
        replica = follow(tmp_path)
        replica._stop.set()
        replica._thread.join()
        for step in (2, 3):
            learn(table, [step])
            log.append(table)
    (segment,) = tmp_path.glob("increments-*.log")
    data = bytearray(segment.read_bytes())
    data[150] ^= 4  # of record 2: record 3 is whole
    segment.write_bytes(data)
    replica._stop.clear()
    replica._thread = threading.Thread(
        target=_replica._run, args=(_replica.weakref.ref(replica), replica._stop), daemon=True
    )
    replica._thread.start()
    until(lambda: replica.error is not None)
    assert "damaged at record 2" in str(replica.error)
    assert replica.lookup([1]).shape == (1, 2)
    assert replica.number == 1
    with pytest.raises(TimeoutError, match="damaged at record 2"):
        replica.wait(3, timeout=0.05)


def test_an_empty_log_is_waited_for(tmp_path, follow):
    with pytest.raises(TimeoutError, match=r"nothing was appended to .* within 0\.05 s"):
        fi.replica.follow(tmp_path / "log", timeout=0.05)
    timer = threading.Timer(0.1, lambda: Log(tmp_path / "log").append(new_table()))
    timer.start()
    assert follow(tmp_path / "log").number == 1
    timer.join()


@pytest.mark.parametrize("appends", [1, 4])
def test_a_folder_that_goes_and_another_log_in_its_place_are_noticed(tmp_path, follow, appends):
    table, path = new_table(), tmp_path / "log"
    learn(table, range(5))
    with Log(path) as log:
        for _ in range(appends):
            log.append(table)
    replica = follow(path)
    until(lambda: replica.lag().records == 0)
    shutil.rmtree(path)
    until(lambda: replica.error is not None)
    assert rows_of(replica.model) == rows_of(table)
    other = new_table()
    learn(other, range(5), 1)
    with Log(path) as log:
        log.append(other)
    until(lambda: rows_of(replica.model) == rows_of(other))
    assert (replica.number, replica.error) == (1, None)
    with Log(path) as log:  # and once more, at the same number
        shutil.copytree(path, tmp_path / "backup")
        learn(other, range(5), 2)
        log.restore()
        log.append(other)
    until(lambda: rows_of(replica.model) == rows_of(other))
    shutil.rmtree(path)
    os.rename(tmp_path / "backup", path)
    until(lambda: replica.number == 1)
    assert rows_of(replica.model) == rows_of(Log(path).restore()[0]) != rows_of(other)


@pytest.mark.parametrize("keep", [1, 3])
def test_what_a_compaction_leaves_is_still_the_same_log(tmp_path, follow, keep):
    table = new_table()
    with Log(tmp_path, keep=keep, compact=None) as log:
        log.append(table)
        replica = follow(tmp_path)
        for step in range(5):
            learn(table, range(5), step)
            replica.wait(log.append(table).number)
            log.compact()
            time.sleep(0.05)  # some looks of the replica
        learn(table, range(5), 5)
        replica.wait(log.append(table).number)
    assert rows_of(replica.model) == rows_of(table)
    assert (replica.stats()["resyncs"], replica.error) == (0, None)


def test_damage_to_the_base_that_is_served_changes_nothing(tmp_path, follow):
    table = new_table()
    learn(table, range(5))
    with Log(tmp_path, compact=None) as log:
        log.append(new_table())
        log.append(table)
        replica = follow(tmp_path)
        manifest = tmp_path / "base-0000000000000002" / "manifest.json"
        manifest.write_bytes(manifest.read_bytes()[:-9])
        time.sleep(0.1)  # some looks of the replica
        assert (replica.number, replica.stats()["resyncs"], replica.error) == (2, 0, None)
        learn(table, range(5), 1)
        replica.wait(log.append(table).number)
    assert rows_of(replica.model) == rows_of(table)
    assert replica.stats()["resyncs"] == 0


@pytest.mark.parametrize("options", [{"factory": "nonsense"}, {"metric": "bogus"}])
def test_what_no_index_is_made_by_is_refused_at_once(tmp_path, options):
    Log(tmp_path).append(new_table())
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        fi.replica.follow(tmp_path, **options)


@pytest.mark.parametrize("options", [{"poll": 0}, {"poll": float("nan")}, {"poll": 1e10}, {"timeout": -1.0}])
def test_seconds_are_checked(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        fi.replica.follow(tmp_path, **options)


def test_a_checkpoint_is_not_a_log(tmp_path):
    fi.checkpoint.save(new_table(), tmp_path)
    with pytest.raises(ValueError, match="holds a checkpoint"):
        fi.replica.follow(tmp_path)


def test_readers_see_one_version_of_every_row(tmp_path, follow):
    """All values of a row are the same in every version: a torn one would show."""
    table = fi.EmbeddingTable(dim=16)
    ids = np.arange(50)
    with Log(tmp_path, compact=None) as log:
        table.load(ids, np.zeros((50, 16), dtype=np.float32))
        log.append(table)
        replica, done, torn = follow(tmp_path, poll=0.001), threading.Event(), []

        def read():
            while not done.is_set():
                rows = replica.lookup(ids)
                torn.extend(rows[(rows != rows[:, :1]).any(axis=1)])
                scores = replica.search(np.ones((1, 16), dtype=np.float32), 5)[0]
                torn.extend(scores[~np.isfinite(scores)])

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for step in range(1, 100):
            table.load(ids, np.full((50, 16), step, dtype=np.float32))
            last = log.append(table).number
        replica.wait(last)
        done.set()
        for thread in threads:
            thread.join()
    assert torn == []


LEADER = """
import sys, numpy as np, fastinc as fi
with fi.checkpoint.Log(sys.argv[1], compact=0.5, keep=5) as log:
    found = log.restore()
    model, position = found or (fi.Recommender(dim=4, negatives=5, batch_size=1), 0)
    rng = np.random.default_rng(position)
    while True:
        position += 1
        model.partial_fit(rng.integers(0, 20, 30), rng.integers(0, 30, 30))
        log.append(model, position=position)
        print(position, flush=True)
"""


def test_a_leader_killed_again_and_again(tmp_path, follow):
    rng = np.random.default_rng(0)
    replica = None
    for _ in range(30 if os.environ.get("FASTINC_TORTURE") else 3):
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", LEADER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as leader:
            for _ in range(int(rng.integers(1, 25))):
                assert leader.stdout is not None
                last = int(leader.stdout.readline())
            replica = replica or follow(tmp_path)
            time.sleep(float(rng.uniform(0.0, 0.05)))
            leader.send_signal(signal.SIGKILL)
        until(lambda replica=replica, last=last: replica.position >= last)
    until(lambda: replica.lag().records == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, position = Log(tmp_path).restore()
    assert replica.position == position
    assert replica.error is None
    assert replica.recommend([1, 2], 10)[1].tobytes() == expected.recommend([1, 2], 10)[1].tobytes()
    assert rows_of(replica.model.item_table) == rows_of(expected.item_table)


def test_a_dropped_replica_leaves_nothing_open(tmp_path):
    table = new_table()
    with Log(tmp_path) as log:
        log.append(table)
        log.append(table)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            fi.replica.follow(tmp_path, poll=0.001)
        until(lambda: gc.collect() is not None and len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_child_must_follow_itself(tmp_path, follow):
    with Log(tmp_path) as log:
        log.append(new_table())
    replica = follow(tmp_path)
    child = os.fork()
    if child == 0:
        for call in (lambda: replica.lookup([1]), lambda: replica.wait(1)):
            try:
                call()
            except RuntimeError as error:
                if "follow() in this one" in str(error):
                    continue
            os._exit(8)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert replica.lookup([1]).shape == (1, 2)

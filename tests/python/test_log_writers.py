"""One writer to a folder, many readers, threads, forks and kills; compaction while appends go on; what is let go."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import numpy as np
import pytest

import fastinc as fi
from _logs import learn, new_table, quiet, restored, state_of
from fastinc.checkpoint import _directory, _lock, _log

Log = fi.checkpoint.Log
DEADLINE = 60.0
LONG = bool(os.environ.get("FASTINC_TORTURE"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_lock, "_PATIENCE", 0.02)


def wait_for(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def in_another_process(code, *args):
    """Run code that has fi and sys; it talks by its standard streams."""
    code = "import sys, fastinc as fi\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_writer_is_refused(tmp_path):
    table = new_table()
    with Log(tmp_path) as first:
        first.append(table, 1)
        second = Log(tmp_path)
        message = f"{tmp_path} has a writer already: pid {os.getpid()}; a log has one at a time"
        for call in (lambda: second.append(table), second.compact):
            with pytest.raises(RuntimeError, match=message):
                call()
        assert second.restore()[1] == 1  # readers are welcome
        first.append(table, 2)
    assert second.append(table, 3).number == 3
    second.close()


def test_a_log_may_be_locked_before_there_is_anything_to_append(tmp_path):
    table = new_table()
    with Log(tmp_path / "log") as first, Log(tmp_path / "log") as second:
        first.lock()
        first.lock()
        for call in (second.lock, lambda: second.append(table)):
            with pytest.raises(RuntimeError, match="has a writer already"):
                call()
        assert second.restore() is None
        assert first.append(table).number == 1
        first.close()
        second.lock()
    with pytest.raises(ValueError, match="is closed"):
        second.lock()


def test_a_writer_in_another_process_is_named_and_its_death_frees_the_log(tmp_path):
    other = in_another_process(
        """
        log = fi.checkpoint.Log(sys.argv[1])
        log.append(fi.EmbeddingTable(2), "theirs")
        print("ready", flush=True)
        sys.stdin.read()
        """,
        tmp_path,
    )
    with other:
        assert other.stdout.readline() == "ready\n"
        log = Log(tmp_path)
        with pytest.raises(RuntimeError, match=f"has a writer already: pid {other.pid};"):
            log.append(new_table())
        assert log.restore()[1] == "theirs"
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert log.append(new_table(), "mine").number == 2
        log.close()


def test_a_log_that_nobody_holds_lets_go(tmp_path):
    table = new_table()
    log = Log(tmp_path)
    log.append(table)
    del log
    gc.collect()
    with Log(tmp_path) as log:
        assert log.append(table).number == 2


def test_a_forked_child_neither_writes_nor_holds_the_lock(tmp_path):
    table = new_table()
    log = Log(tmp_path)
    log.append(table, 1)
    told, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            os.read(told, 1)
            calls = (lambda: log.append(table), log.compact)
            refused = [refuses(call) for call in calls]
            log.close()
            code = 0 if all(refused) and log.restore() is not None and log.entries() else 2
        finally:
            os._exit(code)
    log.close()
    with Log(tmp_path) as other:  # while the child lives
        assert other.append(table, 2).number == 2
        os.write(tell, b"x")
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert _lock.is_held(tmp_path)
        assert other.append(table, 3).kind == "increment"
    os.close(told)
    os.close(tell)
    assert restored(tmp_path)[1] == 3


def refuses(call):
    try:
        call()
    except RuntimeError as error:
        return "forked" in str(error)
    return False


def test_readers_see_every_state_whole_while_it_is_appended_and_compacted(tmp_path):
    table = new_table()
    done, seen, errors = threading.Event(), [], []

    def read():
        log = Log(tmp_path)
        try:
            while not done.is_set():
                found = log.restore()
                if found is not None:
                    learned, position = found
                    assert learned.version == position
                    seen.append(position)
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Log(tmp_path, keep=3) as log:
            for i in range(1, 150 if not LONG else 3000):
                learn(table, [i % 7, i])
                log.append(table, table.version)
                if i % 20 == 0:
                    log.compact()
            wait_for(lambda: errors or (seen and seen[-1] == table.version))
        done.set()
        reader.join()
    assert not errors, errors
    assert seen == sorted(seen)
    assert restored(tmp_path) == (state_of(table), table.version)


def test_threads_append_one_after_another(tmp_path):
    tables = [new_table() for _ in range(3)]
    with Log(tmp_path) as log:

        def work(table):
            for i in range(10):
                learn(table, [i])
                entries.append(log.append(table).number)

        entries = []
        threads = [threading.Thread(target=work, args=(table,)) for table in tables]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(entries) == list(range(1, 31))
    assert restored(tmp_path)[0] in [state_of(table) for table in tables]


@pytest.mark.parametrize("limits", [{}, {"max_rows": 300}, {"max_rows": 300, "eviction": "lfu"}], ids=str)
def test_what_is_written_meanwhile_is_in_this_append_or_the_next(tmp_path, limits):
    table = new_table(**limits)
    stop = threading.Event()

    def write(seed):
        random = np.random.default_rng(seed)
        while not stop.is_set():
            learn(table, np.unique(random.integers(0, 500, 20)))
            table.remove(random.integers(0, 500, 5))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    with Log(tmp_path) as log:
        for thread in threads:
            thread.start()
        kinds = [log.append(table, i).kind for i in range(60)]
        stop.set()
        for thread in threads:
            thread.join()
        log.append(table, "end")
    assert kinds.count("increment") > 50
    assert restored(tmp_path) == (state_of(table), "end")
    versions = [Log(tmp_path).restore(number=number)[0].version for number in (1, 20, 40, 61)]
    assert versions == sorted(versions)


def test_compaction_starts_by_itself_and_appends_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(_log, "COMPACT_BYTES", 4000)
    table = new_table()
    with Log(tmp_path, compact=0.5, keep=1) as log:
        log.append(table)
        states = {}

        def has_base():
            learn(table, [len(states)])
            entry = log.append(table, len(states))
            states[entry.number] = state_of(table), entry.position
            return len(_directory.listing(tmp_path).bases) > 0 and _directory.listing(tmp_path).bases[-1] > 1

        wait_for(has_base)
        first = _directory.listing(tmp_path).bases[-1]
        wait_for(lambda: has_base() and _directory.listing(tmp_path).bases[-1] > first)
        assert log.error is None
    assert restored(tmp_path) == list(states.values())[-1]
    for entry in Log(tmp_path).entries():
        assert restored(tmp_path, number=entry.number) == states[entry.number]
    assert Log(tmp_path).entries()[0].number >= first


def test_without_compaction_there_is_one_base(tmp_path, monkeypatch):
    monkeypatch.setattr(_log, "COMPACT_BYTES", 1)
    table = new_table()
    with Log(tmp_path, compact=None) as log:
        for i in range(20):
            learn(table, [i])
            log.append(table)
        assert log._background._thread is None
    assert _directory.listing(tmp_path).bases == (1,)


def test_a_compaction_that_fails_is_told_and_tried_again_later(tmp_path, monkeypatch):
    monkeypatch.setattr(_log, "COMPACT_BYTES", 3000)
    table = new_table()

    def refuses(*_):
        raise OSError(28, "full")

    with Log(tmp_path, compact=0.01) as log:
        log.append(table)
        with monkeypatch.context() as patched:
            patched.setattr(_log._restoring, "restore", refuses)
            while not log._tried_bytes:
                learn(table, [1])
                log.append(table)
            wait_for(lambda: log.error is not None)
            with pytest.warns(RuntimeWarning, match="was not compacted: OSError"):
                log.append(table)
            log.append(table)  # told once
            tried = log._tried_bytes
        wait_for(lambda: (learn(table, [2]), log.append(table), log._writer.base_bytes and log.error is None)[-1])
        assert tried > 0
        assert _directory.listing(tmp_path).bases[-1] > 1
    assert restored(tmp_path)[0] == state_of(table)


def test_a_base_begins_the_count_of_increments_again(tmp_path, monkeypatch):
    monkeypatch.setattr(_log, "COMPACT_BYTES", 3000)
    monkeypatch.setattr(Log, "_compact_quietly", lambda log: None)
    table = new_table()
    with Log(tmp_path, compact=0.01) as log:
        for _ in range(2):
            log.append(new_table())
            log.append(table)
            assert log._tried_bytes == 0
            while not log._tried_bytes:
                log.append(table)


def test_closing_waits_for_a_compaction(tmp_path, monkeypatch):
    table = new_table()
    begun, go = threading.Event(), threading.Event()
    real = _log._restoring.restore

    def slow(*args):
        begun.set()
        assert go.wait(DEADLINE)
        return real(*args)

    log = Log(tmp_path)
    log.append(table)
    log.append(table)
    monkeypatch.setattr(_log._restoring, "restore", slow)
    compacting = threading.Thread(target=log.compact)
    compacting.start()
    assert begun.wait(DEADLINE)
    learn(table, [1])
    assert log.append(table, "meanwhile").kind == "increment"  # not held up
    closing = threading.Thread(target=log.close)
    closing.start()
    assert _lock.is_held(tmp_path)
    go.set()
    compacting.join()
    closing.join()
    assert not _lock.is_held(tmp_path)
    assert _directory.listing(tmp_path).bases == (1, 2)
    monkeypatch.undo()
    assert restored(tmp_path) == (state_of(table), "meanwhile")


def numbers(path):
    return [entry.number for entry in Log(path).entries()]


def test_what_isnt_kept_goes_with_the_next_base(tmp_path):
    table, states = new_table(), {}
    with Log(tmp_path, keep=3) as log:
        for i in range(1, 21):
            learn(table, [i])
            entry = log.append(table, i)
            states[entry.number] = state_of(table), i
            if i % 4 == 0:
                assert log.compact() == i
        # 18 is the oldest of the three, and 16 the base that it needs.
        assert numbers(tmp_path) == [16, 17, 18, 19, 20]
        assert _directory.listing(tmp_path) == _directory.Listing((16, 20), (17,))
        log.append(new_table(), "new")
        assert numbers(tmp_path) == [16, 17, 18, 19, 20, 21]
        log.append(new_table(), "newer")
        log.append(new_table(), "newest")
        assert numbers(tmp_path) == [21, 22, 23]
    for number in (16, 20):
        with pytest.raises(ValueError, match=f"number = {number} is not kept in .*whose oldest base is of number 21"):
            Log(tmp_path).restore(number=number)


def test_with_no_limit_nothing_goes(tmp_path):
    """Not even what is of no use to a restore, as a base that is damaged and what follows it: someone may mend it."""
    table = new_table()
    for keep, there in ((None, (1, 4)), (1000, (4,))):
        with Log(tmp_path / f"{keep}", keep=keep) as log:
            for i in range(3):
                log.append(table, i)
            (tmp_path / f"{keep}" / "base-0000000000000001" / "manifest.json").write_text("{}")
            table = new_table()
            log.append(table, 3)
        assert _directory.listing(tmp_path / f"{keep}").bases == there


def test_the_newest_base_and_what_follows_it_stay(tmp_path):
    table = new_table()
    with Log(tmp_path, keep=1) as log:
        for i in range(6):
            log.append(table, i)
        log.compact()
        log.append(table, 6)
        assert numbers(tmp_path) == [6, 7]


def test_records_of_an_age_are_kept(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(_log.time, "time", lambda: now[0])
    table = new_table()
    with Log(tmp_path, keep=1, keep_seconds=25) as log:
        for _ in range(10):
            log.append(table)
            log.compact()
            now[0] += 10
    assert numbers(tmp_path) == [8, 9, 10]


WRITER = """
    import warnings
    import numpy as np
    warnings.simplefilter("ignore")
    table = fi.EmbeddingTable(2, fi.Adagrad(lr=0.1), fi.init.Normal(std=0.1, seed=3))
    log = fi.checkpoint.Log(sys.argv[1], compact=0.01, keep=5)
    fi.checkpoint._log.COMPACT_BYTES = 5000
    found = log.restore()
    table, begin = (table, 0) if found is None else found
    for i in range(begin + 1, begin + 100_000):
        table.update(np.array([i, i % 11]), np.full((2, 2), i % 5, dtype=np.float32))
        table.remove([i - 30])
        log.append(table, i)
        print(i, flush=True)
    """


def test_after_kills_at_any_moment_nothing_acknowledged_is_lost(tmp_path):
    random = np.random.default_rng(1)
    acknowledged = 0
    for _ in range(100 if LONG else 3):
        with in_another_process(
            "import warnings; warnings.simplefilter('ignore')\n" + textwrap.dedent(WRITER), tmp_path
        ) as other:
            lines = int(random.integers(3, 40))
            for _ in range(lines):
                acknowledged = int(other.stdout.readline())
            time.sleep(random.random() / 200)
            other.kill()
            rest = other.stdout.read().split("\n")
            acknowledged = max([acknowledged, *[int(line) for line in rest[:-1]]])
        with quiet():
            found, position = Log(tmp_path).restore()
        assert position >= acknowledged
        assert position <= acknowledged + 1
    expected = new_table()
    for i in range(1, position + 1):
        expected.update(np.array([i, i % 11]), np.full((2, 2), i % 5, dtype=np.float32))
        expected.remove([i - 30])
    assert state_of(found) == state_of(expected)


def test_a_process_may_end_while_it_compacts(tmp_path):
    ending = textwrap.dedent(WRITER).replace("begin + 100_000", "begin + 60")
    for _ in range(2):
        with in_another_process(ending, tmp_path) as other:
            assert len(other.stdout.read().split()) == 59
        assert other.returncode == 0
    assert restored(tmp_path)[1] == 2 * 59
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]

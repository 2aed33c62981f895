"""Trainers and servers killed at random moments, as processes: each event in the saved state once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import fastinc as fi
from _redis import RedisServer, need_redis
from _streams import BAD, DEADLINE, LONG, letters_of, newest_entry, state_of, stream_fixture, wait_for

ROUNDS = 100 if LONG else 3
stream = stream_fixture()


def command(folder, source, *more):
    arguments = ["train", "--from", source, "--model", folder / "model", "--dead-letters", folder / "dead.jsonl"]
    arguments += ["--dim", 4, "--seed", 3, *more]
    script = "import sys; from fastinc.cli import main; sys.exit(main())"
    return [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]


def grow(file, texts, part=40, pause=0.0015 * ROUNDS):
    """Append to a file piece by piece, as a writer would; return how to stop."""
    script = (
        "import sys, time\n"
        f"data = open({str(texts)!r}, 'rb').read()\n"
        f"with open({str(file)!r}, 'ab', buffering=0) as out:\n"
        f"    for begin in range(0, len(data), {part}):\n"
        f"        out.write(data[begin:begin + {part}]); time.sleep({pause})\n"
    )
    return subprocess.Popen([sys.executable, "-c", script])


def test_killed_again_and_again_while_the_file_grows(stream, tmp_path):
    """kill -9 at random moments: the saved state has each event once, as if nothing had happened."""
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    file, log = tmp_path / "events.jsonl", tmp_path / "model"
    file.touch()
    writer = grow(file, stream)
    with open(tmp_path / "output", "wb") as output:
        for kill in range(ROUNDS):
            before = newest_entry(log)
            process = subprocess.Popen(
                command(tmp_path, file, "--follow", "--checkpoint-every", 20), stdout=output, stderr=output
            )
            if kill % 4 == 3:
                time.sleep(rng.uniform(0.2, 1.5))
            else:  # not while it imports
                wait_for(lambda: process.poll() is not None or newest_entry(log) != before, "a save")  # noqa: B023
                time.sleep(rng.uniform(0.0, 0.3))
            process.kill()
            assert process.wait(DEADLINE) == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert writer.wait(DEADLINE) == 0
    result = subprocess.run(command(tmp_path, file), capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert result.returncode == 0, result.stderr
    assert f"(400 in all, {len(BAD)} rejected); the model is in" in result.stdout
    model, position = fi.checkpoint.load(log)
    with fi.stream.open(stream) as source, fi.checkpoint.Log(tmp_path / "again") as other:
        expected = fi.Recommender(dim=4, seed=3)
        fi.stream.train(expected, source, other)
    assert state_of(model, tmp_path / "a") == state_of(expected, tmp_path / "b")
    assert [letter["raw"] for letter in letters_of(tmp_path / "dead.jsonl")] == [f"bad {k}" for k in BAD]
    assert (position["events"], position["rejected"], position["held"]) == (400, len(BAD), None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_everything_and_exits_0(stream, tmp_path, number):
    process = subprocess.Popen(
        command(tmp_path, stream, "--follow", "--checkpoint-every", 100_000, "--checkpoint-seconds", 1e6),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    dead = tmp_path / "dead.jsonl"
    read = lambda: dead.exists() and len(dead.read_bytes().splitlines()) == len(BAD)  # noqa: E731
    wait_for(lambda: read() or process.poll() is not None, "the last line to be read")
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert "rejected); the model is in" in out
    _, position = fi.checkpoint.load(tmp_path / "model")
    held = position["held"]
    assert (
        position["events"] + (0 if held is None else len(held["users"])) + position["rejected"]
        == (position["source"]["line"])
    )
    assert len(letters_of(tmp_path / "dead.jsonl")) == position["rejected"]
    assert position["source"]["line"] == 404
    assert "checkpoint 2: " in err


def produce(server, stream, enough):
    """Append events until told, whatever happens to the server; one whose answer is lost may be appended twice."""
    import redis

    k = 0
    while not enough.is_set():
        try:
            with server.client() as client:
                while not enough.is_set():
                    client.xadd(stream, {"user": f"u{k * k % 31}", "item": k % 23, "timestamp": 60 * k})
                    k += 1
                    time.sleep(0.001)
        except (redis.exceptions.RedisError, OSError):  # noqa: PERF203
            time.sleep(0.05)


def delivered(server, stream):
    """Return the last entry that the group was given; None before there is one."""
    import redis

    try:
        with server.client() as client:
            return next((group["last-delivered-id"] for group in client.xinfo_groups(stream)), None)
    except redis.exceptions.ResponseError:  # there is no stream yet
        return None


def test_each_event_is_learned_once_while_everything_is_killed(tmp_path):
    """The server and the trainer are killed with SIGKILL while they are at it, events come in meanwhile."""
    need_redis()
    server = RedisServer(tmp_path).start()
    enough = threading.Event()
    producer = threading.Thread(target=produce, args=(server, "s", enough))
    script = "import sys; from fastinc.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "error", "-c", script, "train", "--from", f"{server.url}&stream=s", "--dim", "4"]
    command += ["--model", str(tmp_path / "model"), "--dead-letters", str(tmp_path / "dead")]
    command += ["--checkpoint-every", "50"]
    output = open(tmp_path / "output", "wb")  # noqa: SIM115
    trainer = None

    def started():
        return subprocess.Popen(command, stdout=output, stderr=output)

    def moved_on(before):
        assert trainer.poll() is None, (tmp_path / "output").read_text()
        return delivered(server, "s") not in (None, before)

    try:
        producer.start()
        for kill in itertools.islice(itertools.cycle(("server", "trainer", "both")), 60 if LONG else 4):
            if trainer is None or trainer.poll() is not None:
                trainer = started()
            before = delivered(server, "s")
            wait_for(lambda: moved_on(before), "events to be read")  # noqa: B023
            time.sleep(random.uniform(0.0, 0.3))
            if kill != "server":
                trainer.kill()
                trainer.wait(DEADLINE)
            if kill != "trainer":
                server.kill()
                time.sleep(0.1)
                server.start()
        enough.set()
        producer.join(DEADLINE)
        if trainer.poll() is not None:
            trainer = started()
        with server.client() as client:
            # Who gets this one is connected again: only then can it acknowledge what it saves.
            client.xadd("s", {"user": "last", "item": 0, "timestamp": 10**9})
            entries = client.xrange("s")
            wait_for(lambda: delivered(server, "s") == entries[-1][0], "all to be read")
            trainer.terminate()
            assert trainer.wait(DEADLINE) == 0, (tmp_path / "output").read_text()
            assert client.xpending("s", "fastinc")["pending"] == 0
    finally:
        enough.set()
        if trainer is not None and trainer.poll() is None:
            trainer.kill()
            trainer.wait(DEADLINE)
        producer.join(DEADLINE)
        server.kill()
        output.close()
    model, position = fi.checkpoint.load(tmp_path / "model")
    rows = [(f[b"user"].decode(), int(f[b"item"]), float(f[b"timestamp"])) for _, f in entries]
    assert position["source"]["id"] == entries[-1][0].decode()
    assert position["events"] == len(rows) // 8 * 8
    users, items, times = map(list, zip(*rows[: position["events"]], strict=True))
    expected = fi.Recommender(dim=4).partial_fit(users, items, timestamps=times)
    assert state_of(model, tmp_path / "a") == state_of(expected, tmp_path / "b")
    assert letters_of(tmp_path / "dead") == []

"""kill -9 at random moments: what is restored is what an uninterrupted run had at that position, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastinc as fi
from _kill import SUBJECTS
from _logs import memory_fixture

tmp_path = memory_fixture()  # what a killed process has written is there on any file system
LONG = bool(os.environ.get("FASTINC_TORTURE"))
KILLS = 200 if LONG else 8
#: Seconds that a child lives, at most, after it has restored.
LIFE = 0.1
#: Of a child's calls that change the disk, how many may be its end: a base of a model takes a hundred.
CALLS = [20, 250]
#: What a restore may say of a folder whose writer was killed: the record it was writing is cut short.
TORN = "it ends within"


class Reference:
    """The same object, learning in this process without interruption."""

    def __init__(self, subject):
        self.subject, self.object, self.position = subject, subject.make(), 0

    def state(self, position):
        while self.position < position:
            self.position += 1
            self.subject.step(self.object, self.position)
        return self.subject.state(self.object)


def restore(folder):
    """Return what a log restores to and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fi.checkpoint.Log(folder).restore()
    return found, [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """Return what a child comes to, by its order."""
    program = [sys.executable, str(Path(__file__).with_name("_kill.py"))]
    path = tmp_path_factory.mktemp("kill") / "errors"
    errors = open(path, "w")  # noqa: SIM115
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process:

        def live(order):
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["status"] == -signal.SIGKILL, path.read_text()
            return answer["heard"]

        yield live
        process.stdin.close()
        process.wait()
    errors.close()


def draw(rng, number, subject, folder):
    """Return a life: until a random moment, a random call that changes the disk, or so many appends."""
    by = ("appends", "life", "call", rng.choice(["life", "call"]))[number % 4]
    return {
        "subject": subject,
        "folder": str(folder),
        "seed": int(rng.integers(2**31)),
        "early": bool(rng.random() < 0.2),
        "appends": int(rng.integers(1, 8)) if by == "appends" else None,
        "life": float(rng.uniform(0.0, LIFE)) if by == "life" else None,
        "call": int(rng.integers(rng.choice(CALLS))) if by == "call" else None,
        "how": str(rng.choice(["before", "half", "after"], p=[0.2, 0.6, 0.2])),
    }


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_killed_again_and_again(subject, tmp_path, lives):
    folder = tmp_path / "log"
    seed = int.from_bytes(os.urandom(4), "little")
    rng = np.random.default_rng(seed)
    reference, last, seen = Reference(SUBJECTS[subject]), 0, {"torn": 0, "staged": 0, "bases": 0}
    begin = time.monotonic()
    for number in range(KILLS):
        order = draw(rng, number, subject, folder)
        heard = lives(order)
        told = f"seed {seed}, kill {number}, {order}, at {last}, acknowledged {heard}"
        assert heard[:1] in ([], [last]), told
        acknowledged = heard[-1] if heard else last
        found, damage = restore(folder)
        position = 0 if found is None else found[1]
        # what was being appended may be there, or not; all before it is
        assert acknowledged <= position <= acknowledged + 1, told
        assert all(TORN in text for text in damage), f"{told}: {damage}"
        if found is not None:
            expected, state = reference.state(position), reference.subject.state(found[0])
            different = [name for name in expected if expected[name] != state.get(name)]
            assert different == [], told
            assert expected.keys() == state.keys()
        last = position
        count(seen, folder, damage)
    print(f"{subject}: {KILLS} kills in {time.monotonic() - begin:.1f} s, {last} appends, {seen}")
    assert last >= KILLS // 4
    if LONG:
        assert min(seen["torn"], seen["staged"], seen["bases"]) > 0, seen


def count(seen, folder, damage):
    """Note in the midst of what a kill came."""
    names = os.listdir(folder) if folder.exists() else []
    seen["torn"] += bool(damage)
    seen["staged"] += any(name.endswith(".tmp") for name in names)
    seen["bases"] = max([seen["bases"], *[int(name[5:]) for name in names if name.startswith("base-")]])

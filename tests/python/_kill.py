"""What learns and appends until it is killed: three kinds of objects, and a process that forks, kills and reports.

Run as a program it reads orders, lines of JSON, from its standard input; each is a life of a child, forked from here,
where everything is imported already: milliseconds. The answer says how the child died and what it had acknowledged.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
import warnings

import numpy as np

import fastinc as fi
from _logs import FaultyOs, half_written
from fastinc.checkpoint import _disk, _log

#: Seconds after which any child is killed: a loaded machine may be slow.
LONGEST = 60.0


class Model:
    """A recommender with all its parts: every table, every counter, and what is set from outside."""

    def make(self):
        features = {"kind": fi.features.Categorical(buckets=16), "text": fi.features.Dense(3)}
        return fi.Recommender(
            dim=4,
            user="both",
            optimizer=fi.Adam(lr=0.05),
            negatives=6,
            popular_negatives=0.5,
            history_size=12,
            long_window=8,
            tie_weight=0.5,
            situations=True,
            hidden=4,
            max_influence=3,
            trusted_after=1,
            anchor=0.1,
            item_features=features,
            explore=0.1,
            batch_size=4,
            schedule=fi.schedules.WarmUp(100, then=fi.schedules.InverseSquareRoot(500)),
        )

    def step(self, model, position):
        rng = np.random.default_rng([11, position])
        n = int(rng.integers(1, 40))
        users = rng.zipf(1.4, n) % 60
        items = np.array([f"ü{i}" for i in rng.zipf(1.3, n) % (20 + position)], dtype=object)
        times = 50.0 * position + np.sort(rng.random(n)) * 50.0
        model.partial_fit(users, items, timestamps=times)
        if position % 5 == 3:
            new = [f"new {position}", f"ü{position}", items[0]]
            values = {"kind": [["a", int(position)], [], "b"], "text": rng.random((3, 3), dtype=np.float32)}
            model.add_items(new, values)
        if position % 11 == 5:
            model.set_anchor()
        if position % 13 == 9:
            model.warm_start([items[0], f"warm {position}"], rng.random((2, 4), dtype=np.float32))
        if position % 17 == 8:
            model.boost_learning_rate(2.0, 60)
        if position % 19 == 10:
            model.optimizer.lr = 0.02 + 0.001 * (position % 7)
        if position % 23 < 3:
            model.frozen = position % 23 < 2

    def state(self, model):
        change = fi.checkpoint._models.export(model, None)
        arrays = {name: array.tobytes() for name, array in change.arrays.items()}
        return {"parameters": json.dumps(change.parameters, sort_keys=True), "frozen": model.frozen, **arrays}


class Table:
    """A table of few rows for many ids: what goes, and when, must be the same after a restart."""

    def __init__(self, optimizer, **limits):
        self.optimizer, self.limits = optimizer, limits

    def make(self):
        return fi.EmbeddingTable(3, self.optimizer(), fi.init.Normal(std=0.1, seed=3), **self.limits)

    def step(self, table, position):
        rng = np.random.default_rng([12, position])
        n = int(rng.integers(1, 25))
        ids = rng.zipf(1.2, n) % 200 * 2**33 - 5
        table.update(ids, rng.normal(size=(n, 3)).astype(np.float32))
        if position % 3 == 1:
            table.remove(ids[:2])
        if position % 7 == 4:
            table.load([position, -position], rng.random((2, 3), dtype=np.float32))
        if position % 19 == 10:
            table.optimizer.lr = 0.02 + 0.001 * (position % 7)

    def state(self, table):
        """All arrays as they lie, but for the order of rows: a base keeps them by slot, an increment as they came."""
        state = table.__getstate__()["state"]
        order, rows = np.argsort(state["ids"]), len(state["ids"])
        found = {"optimizer": repr(table.optimizer)}
        for name, value in state.items():
            if isinstance(value, np.ndarray) and len(value) == rows and name not in ("free_slots", "sightings"):
                value = value[order]
            found[name] = value.tobytes() if isinstance(value, np.ndarray) else value
        return found


SUBJECTS = {
    "model": Model(),
    "lru": Table(fi.Adagrad, max_rows=40, eviction="lru"),
    "lfu": Table(fi.RowWiseAdagrad, max_rows=30, eviction="lfu", admission=fi.MinCount(2, width=256)),
}


class DyingOs(FaultyOs):
    """`os` for the module that writes; at the n-th call that changes something the process is gone.

    Before the call or after it; half of what is written may be there.
    """

    def __init__(self, at, how):
        super().__init__(at)
        self.how = how

    def changes(self, name, real, args, kwargs):
        if len(self.calls) - 1 < self.at:
            return real(*args, **kwargs)
        if self.how == "half" and name == "write":
            half_written(real, args)
        elif self.how == "after":
            real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("alive")


def live(order, say):
    """Go on from what is in the folder, for ever."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", fi.checkpoint.DamageWarning)  # of an end that a kill cut short
    fi.set_num_threads(1)  # threads that wait for each other are slow on a loaded machine
    _log.COMPACT_BYTES = 1
    subject, rng = SUBJECTS[order["subject"]], np.random.default_rng(order["seed"])
    if order["call"] is not None:
        _disk.os = DyingOs(order["call"], order["how"])
    obj = position = None
    while True:
        compression = "zstd" if rng.random() < 0.2 else None
        with fi.checkpoint.Log(order["folder"], keep=int(rng.integers(1, 40)), compression=compression) as log:
            if obj is None:
                obj, position = log.restore() or (subject.make(), 0)
                say(position)
            for _ in range(int(rng.integers(1, 40))):  # the first of another log is a base
                position += 1
                subject.step(obj, position)
                log.append(obj, position)
                say(position)


def child(order, tell):
    """Live; what isn't a kill is told."""
    code = 1
    try:
        live(order, lambda position: os.write(tell, b"%d\n" % position))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def kill(order, pid, told):
    """Kill a child when its life is over; return how it died and what it had acknowledged.

    It lives until it has acknowledged `appends`, or for `life` seconds, which count from when it has restored unless it
    is to die "early"; or it ends by itself, at the call that kills.
    """
    life, appends, heard = order["life"], order["appends"], b""
    end = time.monotonic() + (life if life is not None and order["early"] else LONGEST)
    while (rest := end - time.monotonic()) > 0.0:
        if not select.select([told], [], [], rest)[0]:
            continue
        piece = os.read(told, 1 << 16)
        if not piece:
            break
        if not heard and life is not None:
            end = min(end, time.monotonic() + life)
        heard += piece
        if appends is not None and heard.count(b"\n") > appends:
            break
    os.kill(pid, signal.SIGKILL)
    while piece := os.read(told, 1 << 16):
        heard += piece
    _, status = os.waitpid(pid, 0)
    return {"status": os.waitstatus_to_exitcode(status), "heard": [int(line) for line in heard.split(b"\n")[:-1]]}


def main():
    """Read orders until there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            child(order, tell)
        os.close(tell)
        answer = kill(order, pid, told)
        os.close(told)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

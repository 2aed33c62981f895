"""A log against a list of states, through random updates, removals, appends, crashes, rollbacks and compactions."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastinc as fi
from _logs import MEMORY, learn, load, new_table, quiet, state_of, take_steps
from fastinc.checkpoint import _directory, _records

LONG = bool(os.environ.get("FASTINC_TORTURE"))
LIMITS = [{}, {"max_rows": 6}, {"max_rows": 6, "eviction": "lfu"}, {"admission": fi.MinCount(2, width=64)}]
IDS = st.lists(st.integers(0, 12), min_size=1, max_size=4)


class LogMachine(RuleBasedStateMachine):
    """`states[number]` is what was appended under that number; `table` is alive, or was restored."""

    @initialize(
        limits=st.sampled_from(LIMITS), compression=st.sampled_from([None, "zstd"]), keep=st.sampled_from([1, 3, 99])
    )
    def begin(self, limits, compression, keep):
        self.quiet = quiet()  # a torn end is told again until it is cut off
        self.quiet.__enter__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.options = {"compression": compression, "keep": keep, "compact": None}
        self.log = fi.checkpoint.Log(self.folder, **self.options)
        self.table = new_table(**limits)
        self.states, self.steps = {}, 0
        self.goes_on = False

    def teardown(self):
        if hasattr(self, "log"):
            self.log.close()
            self.quiet.__exit__(None, None, None)
            shutil.rmtree(self.folder, ignore_errors=True)

    @rule(ids=IDS)
    def update(self, ids):
        self.steps += 1
        learn(self.table, ids, self.steps)

    @rule(ids=IDS)
    def remove(self, ids):
        self.table.remove(ids)

    @rule(ids=IDS)
    def load(self, ids):
        load(self.table, ids, self.steps)

    @rule(lr=st.sampled_from([0.1, 0.2]))
    def set_rate(self, lr):
        self.table.optimizer.lr = lr

    @rule()
    def append(self):
        entry = self.log.append(self.table, {"step": self.steps})
        assert entry.number == max(self.states, default=0) + 1
        assert entry.kind == ("increment" if self.goes_on else "base")
        self.states[entry.number] = state_of(self.table), {"step": self.steps}
        self.goes_on = True

    @precondition(lambda self: self.states)
    @rule()
    def compact(self):
        assert self.log.compact() in (None, max(self.states))

    @precondition(lambda self: self.states)
    @rule()
    def reopen(self):
        self.log.close()
        self.log = fi.checkpoint.Log(self.folder, **self.options)
        self.table, _ = self.log.restore()
        self.goes_on = True

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def roll_back(self, data):
        kept = [entry.number for entry in self.log.entries()]
        number = data.draw(st.sampled_from(kept))
        self.table, position = self.log.restore(number=number)
        assert (state_of(self.table), position) == self.states[number]
        self.goes_on = number == max(self.states)

    @precondition(lambda self: self.states)
    @rule()
    def another_writer_of_the_same_table(self):
        self.table = self.table.to("cpu")
        self.goes_on = False

    @precondition(lambda self: self.states)
    @rule(thousandth=st.integers(0, 999))
    def crash(self, thousandth):
        """The last segment ends anywhere in its last record."""
        self.log.close()
        self.log = fi.checkpoint.Log(self.folder, **self.options)
        segments = _directory.listing(self.folder).segments
        last = self.log.entries()[-1]
        if segments and last.kind == "increment":
            with _directory.open_segment(self.folder, segments[-1]) as file:
                heads = list(_records.heads(file, file.size))
            if heads:  # else it has crashed here before
                assert heads[-1].number == last.number
                os.truncate(file.path, heads[-1].offset + (last.bytes - 1) * thousandth // 1000)
                del self.states[last.number]
        self.table, position = self.log.restore()
        assert (state_of(self.table), position) == self.states[max(self.states)]
        self.goes_on = True

    @invariant()
    def the_newest_state_is_the_last_one_appended(self):
        if getattr(self, "states", None):
            table, position = fi.checkpoint.Log(self.folder).restore()
            assert (state_of(table), position) == self.states[max(self.states)]
            numbers = [entry.number for entry in self.log.entries()]
            assert numbers == list(range(numbers[0], max(self.states) + 1))
            assert len(numbers) >= min(self.options["keep"], len(self.states))


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=300 if LONG else 15, stateful_step_count=30, deadline=None)


@settings(max_examples=500 if LONG else 50)
@given(
    st.sampled_from(LIMITS),
    st.lists(st.tuples(st.sampled_from(["update", "remove", "load", "mark"]), IDS), min_size=1, max_size=30),
)
def test_changes_since_any_mark_lead_from_there_to_here(limits, steps):
    """Also what was marked long ago, and told about before."""
    table, kind = new_table(**limits), fi.checkpoint._kinds.KINDS["EmbeddingTable"]
    marks = take_steps(table, steps, kind.mark)
    for twin, mark in marks:
        for _ in range(2):
            change = kind.export(table, mark)
        if change.whole:
            twin = kind.build(change.parameters, change.arrays)
        else:
            kind.apply(twin, change.parameters, change.arrays)
        assert state_of(twin) == state_of(table)

"""The benchmarks: what they report is right, also about what is wrong or missing."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import fastinc as fi
from fastinc.cli import main as fastinc_main

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks aren't installed: they are run from the clone

from bench import caches, inputs, limit, peers, race, reference, report  # noqa: E402
from bench.__main__ import main  # noqa: E402
from bench.core import (  # noqa: E402
    ROUNDS,
    WORKLOADS,
    Case,
    CaseResult,
    Contestant,
    Goal,
    MissingError,
    Settings,
    Standing,
    WrongError,
    choose,
)
from bench.workloads import _updaters, quantize, sharing, table, update  # noqa: E402

ON_CPU = [name for name, workload in WORKLOADS.items() if not workload.on_gpu]
NUMPY_ALONE = [name for name in ON_CPU if not name.startswith(("dlrm/", "sharded"))]  # those need torch
TINY = Settings("tiny", rounds=2, threads=2)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(race, "_SETTLE_SECONDS", 0.0)
    caches._evictor.cache_clear()
    monkeypatch.setattr(caches, "evicting_bytes", lambda: 1 << 16)
    yield
    caches._evictor.cache_clear()


@pytest.fixture
def without_peers(monkeypatch):
    """As if torch, FBGEMM and usearch weren't installed."""
    for module in ("torch", "fbgemm_gpu", "usearch", "usearch.index"):
        monkeypatch.setitem(sys.modules, module, None)


# --- figures ------------------------------------------------------------------------------------------------


def standing(name, seconds, role="peer", **more):
    return Standing(name, role, "", seconds=list(seconds), **more)


def test_times_are_medians_per_call():
    one = standing("a", [0.4, 0.1, 0.2], work=100, calls=10)
    assert (one.median, one.fastest, one.slowest) == pytest.approx((0.02, 0.01, 0.04))
    assert one.rate == pytest.approx(100 / 0.2)


def test_ratios_are_of_medians_and_of_rates():
    ours = standing("ours", [1.0, 2.0, 9.0], "subject", work=10)
    theirs = standing("theirs", [3.0, 8.0, 5.0], work=10)
    more_work = standing("more work", [5.0], "limit", work=50)
    result = CaseResult("case", "rows", [theirs, ours, more_work])
    assert result.ratio("theirs") == pytest.approx(5.0 / 2.0)
    assert result.ratio("more work") == pytest.approx((10 / 2) / (50 / 5))
    assert math.isnan(result.ratio("nobody"))


@pytest.mark.parametrize("status", ["wrong", "missing", "failed"])
def test_times_of_others_than_ok_do_not_count(status):
    ours = standing("ours", [1.0], "subject")
    theirs = standing("theirs", [1.0], status=status, reason="because")
    result = CaseResult("case", "rows", [ours, theirs])
    assert math.isnan(theirs.median)
    assert math.isnan(result.ratio("theirs"))
    assert f"theirs  {status} (because)" in report.table(result)
    assert result.sound
    ours.status = status
    assert not result.sound


def test_goals_know_whether_they_are_met():
    assert Goal("x", 2.0, 2.0).met
    assert not Goal("x", 1.9, 2.0).met
    assert Goal("x", 2.0, 2.0, at_least=False).met
    assert not Goal("x", float("nan"), 2.0).met
    assert not Goal("x", float("nan"), 2.0, at_least=False).met
    ours, theirs = standing("ours", [1.0], "subject"), standing("theirs", [3.0])
    result = CaseResult("case", "rows", [ours, theirs], goals=[Goal("theirs", 3.0, 4.0)])
    assert "goal ≥ 4: theirs = 3: MISSED" in report.table(result)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.0125, "12.5 ms"), (3.21e-6, "3.21 µs"), (9.999e-4, "1000 µs"), (4.5e-8, "45 ns")],
)
def test_times_have_three_digits(seconds, text):
    assert report.seconds_text(seconds) == text


# --- inputs -------------------------------------------------------------------------------------------------


def test_inputs_depend_on_seed_and_round_alone():
    make = inputs.batches(inputs.Draw("zipf", 1000), 64, 4, 2)
    first, again, other = make(TINY.random(1, 2)), make(TINY.random(1, 2)), make(TINY.random(1, 3))
    assert first[0].ids.tolist() == again[0].ids.tolist() != other[0].ids.tolist()
    assert np.array_equal(first[1].grads, again[1].grads)
    assert not np.array_equal(first[0].grads, first[1].grads)
    assert all(np.all(batch.grads != 0) for batch in first)


def test_zipf_ids_have_the_frequencies_of_the_law_and_are_scattered():
    rows, count = 100, 200_000
    ids = inputs.Draw("zipf", rows)(np.random.default_rng(0), count)
    law = np.arange(1, rows + 1) ** -1.05
    shares = np.sort(np.bincount(ids, minlength=rows))[::-1] / count
    np.testing.assert_allclose(shares[:10], (law / law.sum())[:10], rtol=0.05)
    hottest = np.argsort(np.bincount(ids, minlength=rows))[::-1][:5]
    assert hottest.tolist() != [0, 1, 2, 3, 4]


def test_scattered_keys_are_distinct():
    keys = inputs.scattered(np.arange(100_000))
    assert len(np.unique(keys)) == 100_000
    assert (keys < 0).mean() == pytest.approx(0.5, abs=0.01)


def test_filled_arrays_are_in_range():
    array = inputs.fill(np.empty((3000, 100), np.float32), -0.25, 0.5, seed=1)
    assert array.min() >= -0.25
    assert array.max() <= 0.5
    assert len(np.unique(array[:, 0])) > 2000


# --- checks -------------------------------------------------------------------------------------------------


class Racer(_updaters.Fastinc):
    """fastinc, told apart by name."""

    def __init__(self):
        super().__init__("rowwise_adagrad", 500, 8, name=type(self).__name__)


class KeepsLastDuplicate(Racer):
    def run(self, prepared):
        for batch in prepared:
            ids, last = np.unique(batch.ids[::-1], return_index=True)
            super().run([inputs.Batch(ids, batch.grads[::-1][last].copy())])


class StepsTwice(Racer):
    def run(self, prepared):
        super().run(prepared * 2)


class DoesNothing(Racer):
    def run(self, prepared):
        pass


class TouchesOthers(Racer):
    def run(self, prepared):
        super().run(prepared)
        self.weights[:] += np.float32(1e-7)


class ForgetsState(Racer):
    def run(self, prepared):
        before = self.state["state"].copy()
        super().run(prepared)
        self.state["state"][:] = before


class MakesNan(Racer):
    def run(self, prepared):
        super().run(prepared)
        self.weights[prepared[0].ids[0], 0] = np.nan


class Raises(Racer):
    def run(self, prepared):
        raise RuntimeError("no luck")


class FailsLater(Racer):
    def measure(self, inputs, *ready):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 2:
            raise RuntimeError("tired")
        return super().measure(inputs, *ready)


class IsAbsent(Racer):
    def set_up(self, settings):
        raise MissingError("not today")


def race_of(*contestants, cases=None, **more):
    cases = cases or [Case("case", inputs.batches(inputs.Draw("zipf", 500), 256, 8, 1), 256)]
    return [{s.name: s for s in result.standings} for result in race.race(contestants, cases, TINY, **more)]


@pytest.mark.parametrize("kind", [KeepsLastDuplicate, StepsTwice, DoesNothing, TouchesOthers, ForgetsState, MakesNan])
def test_wrong_contestants_get_no_time(kind):
    (standings,) = race_of(Racer(), kind())
    assert standings["Racer"].status == "ok"
    assert len(standings["Racer"].seconds) == TINY.rounds
    wrong = standings[kind.__name__]
    assert (wrong.status, wrong.seconds) == ("wrong", [])
    assert wrong.reason


def test_what_fails_or_is_missing_is_said_and_the_others_go_on():
    (standings,) = race_of(Raises(), Racer(), FailsLater(), IsAbsent())
    assert standings["Racer"].counts
    assert standings["Raises"].status == standings["FailsLater"].status == "failed"
    assert standings["Raises"].reason == "RuntimeError: no luck"
    assert standings["FailsLater"].reason == "RuntimeError: tired"
    assert (standings["IsAbsent"].status, standings["IsAbsent"].reason) == ("missing", "not today")


def test_too_little_memory_is_said():
    (standings,) = race_of(Racer(), needs=1e18)
    assert standings["Racer"].status == "failed"
    assert "GiB of memory" in standings["Racer"].reason


def test_contestants_take_turns_in_shuffled_order_over_the_same_inputs():
    seen = []

    class Spy(Contestant):
        def __init__(self, name):
            self.name = name

        def check(self, inputs):
            pass

        def run(self, prepared):
            seen.append((self.name, prepared))

    cases = [Case("case", lambda rng: int(rng.integers(2**60)), 1)]
    settings = Settings("tiny", rounds=20)
    (result,) = race.race([Spy("a"), Spy("b"), Spy("c")], cases, settings)
    assert [len(s.seconds) for s in result.standings] == [20, 20, 20]  # the first of 21 warms up
    rounds = [seen[at : at + 3] for at in range(0, len(seen), 3)]
    assert len(rounds) == 21
    assert all({name for name, _ in one} == {"a", "b", "c"} for one in rounds)
    assert all(len({value for _, value in one}) == 1 for one in rounds)
    assert len({one[0][1] for one in rounds}) == 21
    assert len({tuple(name for name, _ in one) for one in rounds}) > 3


def test_contestants_are_closed():
    one = Racer()
    race_of(one)
    assert not hasattr(one, "weights")
    assert one.name == "Racer"


@pytest.mark.parametrize("optimizer", list(reference.FORMULAS))
def test_every_formula_holds_for_fastinc_and_numpy(optimizer):
    case = Case("case", inputs.batches(inputs.Draw("zipf", 300), 200, 12, 1), 200)
    contestants = [_updaters.Fastinc(optimizer, 300, 12), _updaters.NumPy(optimizer, 300, 12)]
    (standings,) = race_of(*contestants, cases=[case])
    assert {name: s.reason for name, s in standings.items() if not s.counts} == {}


def test_a_table_with_wrong_int8_copies_is_found(monkeypatch):
    contestant = table.TableUpdate(500, 8)
    contestant.set_up(TINY)
    batch = inputs.batches(inputs.Draw("uniform", 500), 64, 8, 1)(TINY.random(1))
    contestant.check(batch)
    monkeypatch.setattr(fi.EmbeddingTable, "lookup_quantized", lambda self, ids: np.zeros((len(ids), 16), np.uint8))
    with pytest.raises(WrongError, match="int8"):
        contestant.check(batch)


def test_wrong_codes_are_found():
    contestant = quantize.Formula(100, 16)
    contestant.set_up(TINY)
    x = inputs.fill(np.empty((100, 16), np.float32), -1, 1, seed=0)
    contestant.check(x)
    contestant.run = lambda prepared: quantize.by_formula(prepared) ^ np.uint8(1)
    with pytest.raises(WrongError, match="codes"):
        contestant.check(x)


def test_lost_updates_of_threads_are_found(monkeypatch):
    contestant = sharing.Threads(2, 50, 4)
    contestant.set_up(TINY)
    batches = inputs.batches(inputs.Draw("uniform", 50), 8, 4, 10)(TINY.random(2))
    contestant.check(batches)
    monkeypatch.setattr(contestant, "measure", lambda given: type(contestant).measure(contestant, given[1:]))
    with pytest.raises(WrongError, match="lost"):
        contestant.check(batches)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_limit_reads_and_writes_the_rows(threads):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((5000, 20), dtype=np.float32)
    rows = limit.Limit(weights, Settings("tiny", threads=threads))
    ids = rng.permutation(5000)[:4000]  # several pieces, no repeats
    before, expected = weights.copy(), weights.copy()
    expected[ids] += np.float32(0.5)
    rows.update(ids, 0.5)
    assert np.array_equal(weights, expected)
    out = np.empty((4000, 20), np.float32)
    rows.gatherer(ids, out)()
    assert np.array_equal(out, expected[ids])
    assert rows.reader(ids)() == pytest.approx(expected[ids].sum(dtype=np.float64), rel=1e-4, abs=1e-2)
    source, target = rng.bytes(9 << 20), np.zeros(9 << 20, np.uint8)
    limit.copy(target, np.frombuffer(source, np.uint8), TINY)()
    assert target.tobytes() == source
    assert not np.array_equal(before, weights)


def test_the_limit_is_missing_without_a_compiler(monkeypatch):
    limit._library.cache_clear()
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingError, match=r"no C\+\+ compiler"):
        limit.Limit(np.ones((4, 4), np.float32), TINY)


# --- the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NUMPY_ALONE)
def test_every_workload_runs_without_peers(name, without_peers, tmp_path, capsys):
    assert main([name, "--size", "tiny", "--rounds", "1", "--threads", "2", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    facts = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert facts["workload"] == name
    assert facts["machine"]["threads"] == 2
    assert facts["machine"]["packages"]["numpy"] == np.__version__
    printed = capsys.readouterr().out
    for case in facts["cases"]:
        assert case["case"] in printed
        for one in case["contestants"]:
            is_peer = one["name"].startswith(("torch", "FBGEMM", "usearch"))
            assert (one["status"] == "missing") == is_peer, one
            if is_peer:
                assert "installed" in one["reason"] or one["reason"] == "torch has no FTRL"
                assert f"missing ({one['reason']})" in printed
            else:
                assert 0 < one["min_seconds"] <= one["median_seconds"] <= one["max_seconds"]
                assert one["timed"]
                assert one["timed"] in printed
    if importlib.util.find_spec("matplotlib"):
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(importlib.util.find_spec("fbgemm_gpu") is None, reason="FBGEMM is not installed")
@pytest.mark.parametrize(
    "name",
    ["update/rowwise_adagrad", "update/adam", "update/ftrl", "table/pool", "quantize", "dlrm/rowwise_adagrad"],
)
def test_the_peers_agree(name):
    (workload,) = choose([name])
    for result in workload.run(Settings("tiny", rounds=1, threads=2)):
        wrong = {s.name: (s.status, s.reason) for s in result.standings if not s.counts}
        absent = {
            f"update/{kind}": {peers.TBE: ("missing", f"it has no {kind} on the CPU")} for kind in ("adam", "ftrl")
        }
        absent["update/ftrl"]["torch sparse"] = ("missing", "torch has no FTRL")
        assert wrong == absent.get(name, {})


@pytest.mark.skipif(importlib.util.find_spec("fbgemm_gpu") is None, reason="FBGEMM is not installed")
@pytest.mark.parametrize("kind", ["cold", "warm"])
def test_backwards_of_several_batches_do_what_the_formula_does_one_by_one(kind):
    cold = _updaters.Tbe("adagrad", 200, 8)
    cold.set_up(TINY)
    one = cold if kind == "cold" else _updaters.WarmTbe(cold)
    one.set_up(TINY)
    ours = _updaters.NumPy("adagrad", 200, 8)
    ours.set_up(TINY)
    drawn = inputs.batches(inputs.Draw("zipf", 200), 64, 8, 5)(TINY.random(3))
    one.measure(drawn)
    for batch in drawn:
        ours.measure([batch])
    np.testing.assert_allclose(one.weights, ours.weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.state["state"], ours.state["state"], rtol=1e-4)


def test_a_wrong_fastinc_is_an_error(monkeypatch, without_peers, tmp_path, capsys):
    monkeypatch.setattr(fi.ops, "sgd_update", lambda *arguments, **parameters: 0)
    assert main(["update/sgd", "--size", "tiny", "--rounds", "1", "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "wrong (weights of id" in captured.out
    assert "fastinc was wrong or failed in: 2k x 8, uniform" in captured.err


def test_threads_are_restored(without_peers, tmp_path):
    before = fi.get_num_threads()
    assert main(["sharing", "--size", "tiny", "--rounds", "1", "--threads", "3", "--out", str(tmp_path)]) == 0
    assert fi.get_num_threads() == before
    assert sorted(file.name for file in tmp_path.glob("*.txt")) == ["sharing-lookup.txt", "sharing-threads.txt"]


def test_goals_are_for_the_full_size(without_peers):
    case = Case("case", inputs.batches(inputs.Draw("uniform", 500), 16, 8, 1), 16, goals={"x": 1.0}, goal_seconds=1.0)
    for size, goals in (("tiny", 0), ("full", 2)):
        (result,) = race.race([Racer()], [case], Settings(size, rounds=1))
        assert len(result.goals) == goals
    assert [goal.met for goal in result.goals] == [False, True]  # x is not there, and so not beaten
    assert set(ROUNDS) == {"full", "small", "tiny"}
    assert update.GOALS["rowwise_adagrad", "uniform"]["limit"] == 0.6


def test_names_choose_workloads_and_groups():
    assert [w.name for w in choose(["update/sgd"])] == ["update/sgd"]
    assert {w.name for w in choose(["update/", "quantize"])} == {
        *("update/rowwise_adagrad", "update/adagrad", "update/sgd", "update/adam", "update/ftrl", "quantize")
    }
    assert {w.name for w in choose([])} == set(ON_CPU)


@pytest.mark.parametrize("arguments", [["nonsense"], ["up"], ["--rounds", "0"], ["--threads", "0"], ["--seed", "-1"]])
def test_mistakes_are_answered(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("bench: error: ")


def test_fastinc_bench_runs_in_a_clone(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(ROOT)
    assert fastinc_main(["bench", "--list"]) == 0
    listed = capfd.readouterr().out
    assert all(name in listed for name in WORKLOADS)
    options = ["--size", "tiny", "--rounds", "1", "--threads", "1", "--seed", "5", "--out", str(tmp_path)]
    assert fastinc_main(["bench", "scale/ops", *options]) == 0
    assert json.loads((tmp_path / "scale-ops.json").read_text())["seed"] == 5
    with pytest.raises(SystemExit) as stop:
        fastinc_main(["bench", "nonsense"])
    assert stop.value.code == 2


def test_fastinc_bench_says_that_it_needs_a_clone(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert fastinc_main(["bench"]) == 2
    assert "needs a clone of fastinc as the current folder" in capsys.readouterr().err

"""The benchmarks' rules: who is cold, who is warm, which pause counts, and what the README then says."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks aren't installed: they are run from the clone

from bench import caches, inputs, limit, pages, race, readme, report
from bench.__main__ import main
from bench.core import (
    WORKLOADS,
    Case,
    CaseResult,
    Contestant,
    Goal,
    Settings,
    Standing,
    WrongError,
    choose,
)
from bench.workloads import _updaters, growth, quantize, sharing

TINY = Settings("tiny", rounds=2, threads=2)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(race, "_SETTLE_SECONDS", 0.0)
    caches._evictor.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(caches, "_AT_LEAST", 1 << 16)
        patch.setattr(caches, "_AT_MOST", 1 << 16)
        yield
    caches._evictor.cache_clear()


# --- the limit with gradients -------------------------------------------------------------------------------


def test_the_limit_adds_gradients():
    weights = np.zeros((3000, 20), np.float32)
    rows = limit.Limit(weights, Settings("tiny", threads=2))
    weights[:] = 1
    ids = np.random.default_rng(0).permutation(3000)[:2500]
    grads = inputs.normals(TINY.random(4), 2500, 20)
    rows.adder(ids, grads)()
    assert np.array_equal(weights[ids], 1 + grads)
    assert (np.delete(weights, ids, axis=0) == 1).all()


def test_a_limit_that_adds_the_wrong_gradients_is_found(monkeypatch):
    alone = _updaters.RowLimit(500, 8)
    alone.set_up(TINY)
    contestant = _updaters.GradientLimit(alone)
    contestant.set_up(TINY)
    batch = inputs.batches(inputs.Draw("uniform", 500), 64, 8, 1)(TINY.random(1))
    contestant.check(batch)
    adder, kept = alone.limit.adder, []

    def wrong(ids, grads):
        kept.append(np.roll(grads, 1, axis=0))
        return adder(ids, kept[-1])

    monkeypatch.setattr(alone.limit, "adder", wrong)
    with pytest.raises(WrongError, match="rows"):
        contestant.check(batch)


# --- caches and pages ---------------------------------------------------------------------------------------


def test_caches_are_emptied_then_what_is_given_is_touched_then_the_clock_starts(monkeypatch):
    seen = []

    class Spy(Contestant):
        def __init__(self, name):
            self.name = name

        def check(self, inputs):
            pass

        def prepare(self, inputs):
            seen.append((self.name, "prepares"))
            return [self.name]

        def run(self, prepared):
            seen.append((self.name, "runs"))

    monkeypatch.setattr(race, "ready", lambda given: seen.append((*given, "is made ready")))
    (result,) = race.race([Spy("a"), Spy("b")], [Case("case", lambda rng: None, 1)], TINY)
    assert len(seen) == 3 * 2 * (TINY.rounds + 1)
    for at in range(0, len(seen), 3):
        name = seen[at][0]
        assert seen[at : at + 3] == [(name, "prepares"), (name, "is made ready"), (name, "runs")]
    assert "rows cold" in result.caches
    assert report.footnotes([result, result]).count(f"all: {result.caches}") == 1


@pytest.mark.parametrize("kind", [_updaters.Fastinc, _updaters.Tbe, _updaters.WarmTbe, _updaters.TorchSparse])
def test_every_contestant_is_made_ready_once_with_its_ids_and_gradients(kind):
    if kind is not _updaters.Fastinc:
        pytest.importorskip("fbgemm_gpu")
    cold = _updaters.Tbe("sgd", 100, 4)
    if kind is _updaters.WarmTbe:
        cold.set_up(TINY)
    contestant = kind(cold) if kind is _updaters.WarmTbe else kind("sgd", 100, 4)
    contestant.set_up(TINY)
    drawn, given = inputs.batches(inputs.Draw("uniform", 100), 16, 4, 3)(TINY.random(5)), []
    before = contestant.weights.copy()

    def ready(arrays):
        assert np.array_equal(contestant.weights, before)  # nothing has run
        given.append([array.copy() for array in caches._arrays(arrays)])

    contestant.measure(drawn, ready)
    assert len(given) == 1
    assert not np.array_equal(contestant.weights, before)
    for batch in drawn:
        for wanted in (batch.ids, batch.grads):
            assert any(np.array_equal(wanted, array) for array in given[0])


def test_the_array_that_is_quantised_stays_cold():
    contestant, given = quantize.Formula(100, 16), []
    contestant.set_up(TINY)
    contestant.measure(np.ones((100, 16), np.float32), given.append)
    assert list(caches._arrays(given)) == []


def test_touching_changes_nothing_and_finds_arrays_in_all_that_holds_them():
    drawn = inputs.batches(inputs.Draw("zipf", 100), 3, 5, 2)(TINY.random(6))
    nested = [drawn[0], (np.arange(3, dtype=np.uint8), [drawn[1]]), "no array", None, 3.0]
    before = [array.copy() for array in caches._arrays(nested)]
    assert [len(array) for array in before] == [3, 3, 3, 3, 3]
    caches.ready(nested)
    assert all(np.array_equal(*pair) for pair in zip(before, caches._arrays(nested), strict=True))


def test_every_cpu_reads_its_part_on_that_cpu(monkeypatch):
    seen = []
    evictor = caches.Evictor(1 << 16)
    read, cpus_of = evictor._read, getattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(evictor, "_read", lambda part: seen.append((cpus_of(0), len(part))) or read(part))
    before = cpus_of(0)
    evictor.evict()
    evictor.evict()
    assert sum(length for _, length in seen) == 2 * (1 << 16) // 8
    assert cpus_of(0) == before
    if hasattr(os, "sched_getaffinity"):
        assert sorted(min(cpus) for cpus, _ in seen) == sorted([*before, *before])
        assert all(len(cpus) == 1 for cpus, _ in seen)


def test_every_cpu_is_kept_busy_for_a_moment(monkeypatch):
    monkeypatch.setattr(caches, "_BUSY_SECONDS", 0.02)
    evictor = caches.Evictor(1 << 16)
    start = time.perf_counter()
    evictor.keep_busy()
    assert time.perf_counter() - start >= 0.02


def test_what_is_read_is_several_times_the_last_cache(monkeypatch, tmp_path):
    for cpu, (size, shared) in enumerate([("32768K", "0-1"), ("32768K", "0-1"), ("64M", "2"), ("64M", "3")]):
        folder = tmp_path / f"cpu{cpu}" / "cache" / "index3"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
        (folder / "shared_cpu_list").write_text(f"{shared}\n")
    monkeypatch.setattr(caches, "_CPU", tmp_path)
    monkeypatch.setattr(caches, "_AT_LEAST", 128 << 20)
    monkeypatch.setattr(caches, "_AT_MOST", 4 << 30)
    assert caches.cache_bytes() == (32 + 64 + 64) << 20
    assert caches.evicting_bytes() == 4 * (32 + 64 + 64) << 20
    monkeypatch.setattr(caches, "cache_bytes", lambda: 0)
    assert caches.evicting_bytes() == 128 << 20


def test_copies_are_equal_and_their_share_on_huge_pages_is_told():
    small, large = np.arange(10), np.random.default_rng(0).random((3 << 20, 4), dtype=np.float32)
    before = pages.resident()
    copies = [pages.own(small), pages.own(large), pages.own(large[:, ::2])]
    after = pages.resident()
    for copy, source in zip(copies, (small, large, large[:, ::2]), strict=True):
        assert np.array_equal(copy, source)
        assert copy.flags.c_contiguous
        assert not np.shares_memory(copy, source)
    assert pages.share(before, before) is None
    assert pages.share((0.0, 0.0), (64e6, 48e6)) == pytest.approx(0.75)
    share = pages.share(before, after)
    assert share is None or 0 <= share <= 1
    one = Standing("one", "peer", "", huge_pages=0.5)
    assert "on huge pages: one 50%" in report.footnotes([CaseResult("case", "rows", [one])])


def test_memory_that_was_touched_is_given_back():
    before = pages.resident()[0]
    assert pages.touch(64 << 20) > 0
    assert not pages.resident()[0] - before > 32 << 20


# --- growth and sharing -------------------------------------------------------------------------------------


def test_pauses_that_come_back_count_and_those_of_one_fill_do_not():
    run = growth._Growth(40, 10, 4, TINY)
    run.wall = [[1.0, 1.0, 6.0, 1.0], [1.0, 1.0, 5.0, 50.0], [40.0, 1.0, 7.0, 1.0]]
    run.cpu = [[1.0, 1.0, 3.0, 1.0]] * 3
    run.beyond, run.beyond_with_slack, run.resident_beyond = [3.0, 4.0], [5.0, 6.0], 1.0
    run.touched = [2.0, 1.0]
    figures = growth._figures(run)
    assert figures["slowest batch / median one"] == 5.0
    assert figures["slowest batch / median one, by CPU time"] == 3.0
    assert figures["slowest batch / median one, in the worst single fill"] == pytest.approx(50 / 3)
    assert figures["which batch is the slowest"] == 2
    assert figures["bytes a row beyond weights, state and codes, most"] == 4.0


def test_loops_tell_their_calls_and_the_cpus_they_had():
    rates = sharing.rates({"idle": [lambda number: time.sleep(0.01)]}, 0.1)
    assert 1 < rates["idle"].calls <= 101
    assert 0 <= rates["idle"].cpu < 0.9


# --- the README ---------------------------------------------------------------------------------------------

MACHINE = {
    "cpu": "Some CPU",
    "cpus": 2,
    "memory_gib": 24,
    "kernel": "6.1",
    "isa": "v4",
    "threads": 2,
    "packages": {"numpy": "2.0", "torch": None},
    "commit": "abc123",
    "date": "2026-01-02T03:04:05+00:00",
}


def standing(name, seconds, role="peer", **more):
    return Standing(name, role, "", seconds=seconds, work=65_536, **more)


def write_results(folder):
    ours, theirs = standing("fastinc", [0.002], "subject"), standing("FBGEMM TBE", [0.05])
    absent = standing("torch sparse Adagrad", [], status="missing", reason="not installed")
    goals = [
        Goal("fastinc, rate against FBGEMM TBE", 25.0, 20.0),
        Goal("fastinc, rate against limit", 0.5, 0.6),
        Goal("fastinc, rate against torch sparse Adagrad", float("nan"), 25.0),
    ]
    contestants = [ours, theirs, absent, standing("limit", [0.001], "limit")]
    judged = CaseResult("5M x 64, uniform", "rows", contestants, goals)
    unjudged = CaseResult("5M x 64, 32 ids", "rows", [ours, theirs])
    failed = CaseResult("1M", "rows", [standing("fastinc", [], "subject", status="failed", reason="x")], goals[:1])
    failed.goals[0] = Goal(goals[0].what, float("nan"), 20.0)
    for name, results, size, commit in (
        ("update/rowwise_adagrad", [judged, unjudged], "full", "abc123"),
        ("update/sgd", [unjudged], "small", "def456"),
        ("update/adam", [failed], "full", "abc123"),
    ):
        (workload,) = choose([name])
        report.write(folder, workload, results, Settings(size), {**MACHINE, "commit": commit})


def test_the_readme_has_a_line_for_each_goal(monkeypatch, tmp_path, capsys):
    (tmp_path / "README.md").write_text(f"# Before\n\n{readme.BEGIN}\nold\n{readme.END}\n\nAfter\n")
    write_results(tmp_path / "results")
    monkeypatch.setattr("bench.__main__.ROOT", tmp_path)
    for _ in range(2):  # twice is as once
        assert main(["--readme", "--out", str(tmp_path / "results")]) == 0
        text = (tmp_path / "README.md").read_text()
        assert text.startswith(f"# Before\n\n{readme.BEGIN}\n")
        assert text.endswith(f"\n{readme.END}\n\nAfter\n")
        assert "old" not in text
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert "Some CPU, 2 CPUs" in text
    assert "commit abc123; 2026-01-02 (update/rowwise_adagrad, update/adam)." in text
    assert "commit def456; 2026-01-02 (update/sgd)." in text
    what, rate = "update/rowwise_adagrad: 5M x 64, uniform", "32.8 M rows/s (2 ms a call)"
    against = [what, rate, "FBGEMM TBE 25x, torch sparse Adagrad missing", "limit 0.5x"]
    assert lines[2:5] == [
        [*against, "rate against FBGEMM TBE ≥ 20", "25", "met"],
        [*against, "rate against limit ≥ 0.6", "0.5", "**missed**"],
        [*against, "rate against torch sparse Adagrad ≥ 25", "", "torch sparse Adagrad missing"],
    ]
    verdicts = {line[0]: line[-1] for line in lines[5:]}
    assert verdicts.pop("update/sgd") == "measured at size small alone"
    assert verdicts.pop("update/adam: 1M") == "fastinc failed"
    judged = {w.name for w in WORKLOADS.values() if w.judged}
    assert set(verdicts) == judged - {"update/rowwise_adagrad", "update/sgd", "update/adam"}
    assert set(verdicts.values()) == {"not measured"}
    assert f"{len(verdicts) + 4} goals not met or without a result" in capsys.readouterr().out


def test_a_readme_without_markers_is_left_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("bench.__main__.ROOT", tmp_path)
    for text in ("no markers", f"{readme.END}\n{readme.BEGIN}", f"{readme.BEGIN}\n{readme.BEGIN}\n{readme.END}"):
        (tmp_path / "README.md").write_text(text)
        assert main(["--readme", "--out", str(tmp_path)]) == 2
        assert readme.BEGIN in capsys.readouterr().err
        assert (tmp_path / "README.md").read_text() == text


def test_workloads_that_set_goals_say_so():
    without = {"update/ftrl", "table/pool", "dlrm/rowwise_adagrad", "dlrm/adagrad"}
    without |= {"durability/replica", "durability/stream"}
    assert {w.name for w in WORKLOADS.values() if not w.judged and not w.on_gpu} <= without

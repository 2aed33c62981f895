"""The benchmarks for a GPU, on the CPU: that they run, that they find what is wrong, and what they say of goals."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fastinc as fi

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks aren't installed: they are run from the clone

from bench import race
from bench.__main__ import main
from bench.core import WORKLOADS, Case, CaseResult, Goal, MissingError, Settings, Standing, WrongError
from bench.gpu import contest, run
from bench.gpu import device as device_module
from bench.gpu.device import CudaDevice, Device, open_device
from bench.gpu.draws import Batch, Draw, batches, scattered
from bench.gpu.updaters import Fastinc, FastincGraph, FastincOneGraph
from bench.inputs import scattered as scattered_on_host
from bench.workloads import gpu_pool, gpu_quantize, gpu_table, gpu_topk, gpu_update

TINY = Settings("tiny", rounds=2, threads=2)
ON_GPU = [name for name, workload in WORKLOADS.items() if workload.on_gpu]


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(race, "_SETTLE_SECONDS", 0.0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def device():
    return Device(TINY)


def run_main(*arguments):
    return main([*arguments, "--device", "cpu", "--size", "tiny", "--rounds", "2", "--threads", "2"])


# --- the command --------------------------------------------------------------------------------------------


def test_every_workload_runs_on_the_cpu(tmp_path, capsys):
    assert run_main("gpu", "--out", str(tmp_path)) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gpu-cpu.json", "gpu-cpu.txt"]
    facts = json.loads((tmp_path / "gpu-cpu.json").read_text(), parse_constant=pytest.fail)
    assert facts["device"] == "cpu"
    assert facts["machine"]["gpu"] == {"name": "cpu"}
    assert [one["workload"] for one in facts["workloads"]] == ON_GPU
    printed = capsys.readouterr().out
    for workload in facts["workloads"]:
        assert workload["missing"] is workload["failed"] is None
        assert workload["cases"]
        for case in workload["cases"]:
            assert case["case"] in printed
            assert case["goals"] == []  # they are for a GPU
            assert all(0 < value < math.inf for value in case["figures"].values()), case
            check_contestants(case)


def check_contestants(case):
    assert case["contestants"][0]["name"] == case["subject"]
    for one in case["contestants"]:
        if one["name"] == gpu_topk.FAISS:
            assert one["status"] == "missing"
            continue
        assert one["status"] == "ok", one
        assert one["timed"]
        assert one["measurements"] == 2
        inner = [one[f"{name}_seconds"] for name in ("min", "p10", "median", "p90", "max")]
        assert inner == sorted(inner)
        assert all(0 < value < math.inf for value in (*inner, one["rate"]))


def test_a_part_has_a_file_of_its_own(tmp_path):
    assert run_main("gpu/pool", "--out", str(tmp_path)) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gpu-pool.json", "gpu-pool.txt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert main(["gpu", "--out", str(tmp_path)]) == 2
    assert "torch finds no GPU; --device cpu runs the same code" in capsys.readouterr().err
    with pytest.raises(MissingError, match="no GPU"):
        open_device(Settings(device="cuda"))


@pytest.mark.parametrize(
    "arguments", [["gpu", "quantize"], ["quantize", "--device", "cuda"], ["gpu", "--device", "cpu", "--size", "full"]]
)
def test_mistakes_are_answered(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("bench: error: ")


def test_one_that_breaks_or_is_missing_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fi.ops, "pool", lambda *_, **__: 1 / 0)
    monkeypatch.delattr(fi.ops, "topk_int8")
    monkeypatch.setattr(gpu_table, "Filled", lambda *_: (_ for _ in ()).throw(MissingError("not available: a table")))
    assert run_main("gpu", "--out", str(tmp_path)) == 1
    told = capsys.readouterr()
    assert "wrong or failed in: gpu/pool\n" in told.err
    table = told.out[told.out.index("\nwhat ") :]
    assert "failed: ZeroDivisionError: division by zero" in table
    assert "not available: fi.ops.topk_int8: " in table
    assert "not available: a table" in table
    kept = json.loads((tmp_path / "gpu-cpu.json").read_text())["workloads"]
    assert [one["missing"] for one in kept if one["workload"] == "gpu/table"] == ["not available: a table"]
    assert all(s["status"] == "ok" for s in kept[0]["cases"][0]["contestants"])


# --- checks -------------------------------------------------------------------------------------------------


def small_batches(device, kind="zipf", calls=1):
    return batches(Draw(device, kind, 300), 200, 8, calls)(TINY.random(1))


def fastinc_of(kind, device):
    one = kind(device, 300, 8)
    one.set_up(TINY)
    return one


class KeepsLastDuplicate(Fastinc):
    def run(self, prepared):
        for batch in prepared:
            ids, last = np.unique(batch.ids.numpy()[::-1], return_index=True)
            grads = batch.grads.numpy()[::-1][last].copy()
            super().run([Batch(torch.from_numpy(ids.copy()), torch.from_numpy(grads))])


class SumsInAnotherOrder(Fastinc):
    def run(self, prepared):
        for batch in prepared:
            super().run([Batch(batch.ids.flip(0), batch.grads.flip(0))])


class TouchesOthers(Fastinc):
    def run(self, prepared):
        super().run(prepared)
        self.weights += 1e-8


@pytest.mark.parametrize("kind", [Fastinc, FastincGraph, FastincOneGraph])
def test_right_updates_pass(device, kind):
    one = fastinc_of(kind, device)
    one.check(small_batches(device, calls=3))
    one.measure(small_batches(device, calls=3))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (KeepsLastDuplicate, "of id"),
        (SumsInAnotherOrder, "beside the CPU's"),
        (TouchesOthers, "outside the batch"),
    ],
)
def test_wrong_updates_are_found(device, kind, what):
    with pytest.raises(WrongError, match=what):
        fastinc_of(kind, device).check(small_batches(device))


def test_a_graph_steps_by_what_was_written_to_it(device):
    """Not by the batches that it was captured with."""
    graph, plain = fastinc_of(FastincGraph, device), fastinc_of(Fastinc, device)
    graph.prepare(small_batches(device, calls=2))
    other = batches(Draw(device, "uniform", 300), 200, 8, 2)(TINY.random(2))
    for one in (graph, plain):
        one.measure(other)
    assert torch.equal(graph.weights, plain.weights)


def spoil(result, how):
    if isinstance(result, tuple):
        return tuple(spoil(one, how) for one in result)
    how(result)
    return result


def negate_first(x):
    x[0] = -x[0]


@pytest.mark.parametrize("name", ["quantize_rowwise", "dequantize_rowwise", "pool", "topk_int8"])
def test_wrong_results_are_found(device, name, monkeypatch):
    """Those of tensors are spoiled, those of arrays are what they are compared with."""
    right = getattr(fi.ops, name)

    def wrong(x, *arguments, **options):
        result = right(x, *arguments, **options)
        return spoil(result, negate_first) if isinstance(x, torch.Tensor) else result

    rng = TINY.random(5)
    one, inputs = {
        "quantize_rowwise": lambda: (gpu_quantize.Quantize(device, 50, 8, False), device.normals((50, 8), rng)),
        "dequantize_rowwise": lambda: (
            gpu_quantize.Dequantize(device, 50, 8),
            gpu_quantize.random_codes(device, 50, 8, rng),
        ),
        "pool": lambda: (
            gpu_pool.Fastinc(device, gpu_pool.Rows(device, 90, 8, TINY), 60, False),
            Draw(device, "uniform", 90)(rng, 60),
        ),
        "topk_int8": lambda: (
            gpu_topk.Fastinc(device, gpu_topk.Rows(device, 90, 8, TINY), 5),
            device.normals((3, 8), rng),
        ),
    }[name]()
    one.set_up(TINY)
    one.check(inputs)
    monkeypatch.setattr(fi.ops, name, wrong)
    one.set_up(TINY)
    with pytest.raises(WrongError):
        one.check(inputs)


@pytest.mark.parametrize("kind", [gpu_table.Contains, gpu_table.Insert])
def test_wrong_tables_are_found(device, kind, monkeypatch):
    filled = gpu_table.Filled(device, 300, 8, TINY)
    one = kind(filled)
    inputs = filled.present(TINY.random(1), 50) if kind is gpu_table.Contains else filled.batch(TINY.random(1), 50)
    one.check(inputs)
    monkeypatch.setattr(filled, "absent", lambda count: filled._numbered(0, count))
    monkeypatch.setattr(
        fi.EmbeddingTable, "lookup_quantized", lambda self, ids: np.full((len(ids), 16), id(self) % 251)
    )
    with pytest.raises(WrongError):
        one.check(inputs)


def test_a_table_keeps_its_rows_over_the_rounds(device):
    filled = gpu_table.Filled(device, 300, 8, TINY)
    one = gpu_table.Insert(filled)
    seen = set()
    for number in range(4):
        drawn = filled.batch(TINY.random(number), 64)
        assert one.measure(drawn) > 0
        assert len(filled.table) == 300
        assert seen.isdisjoint(drawn.new.tolist())
        seen.update(drawn.new.tolist())


# --- inputs and bytes ---------------------------------------------------------------------------------------


def test_draws_are_those_of_the_host_in_kind(device):
    ids = Draw(device, "zipf", 100)(np.random.default_rng(0), 200_000)
    law = np.arange(1, 101) ** -1.05
    shares = np.sort(np.bincount(ids.numpy(), minlength=100))[::-1] / len(ids)
    np.testing.assert_allclose(shares[:10], (law / law.sum())[:10], rtol=0.05)
    rows = np.arange(10_000)
    assert np.array_equal(scattered(torch.from_numpy(rows)).numpy(), scattered_on_host(rows))


def test_bytes_are_counted_once_read_and_once_written(device):
    batch = Batch(torch.tensor([3, 3, 5]), torch.ones(3, 4))
    work, distinct = gpu_update.bytes_moved(device, [batch, batch])
    assert distinct == 4
    assert work == 2 * (3 * (8 + 16) + 2 * (2 * 16 + 2 * 4))
    drawn = gpu_table.Batch(torch.tensor([3, 3, 5, 9]), torch.ones(4, 4), torch.tensor([9]))
    assert gpu_table.insert_bytes(device, drawn) == 4 * (8 + 16) + 2 * (2 * 16 + 8 + 12) + (16 + 4 + 12)


def test_the_cpu_is_timed_too(device):
    assert device.seconds(lambda: sum(range(100_000))) > 1e-5
    assert device.graph(len) is len
    assert device.clocks() == {}


class StandInEvent:
    """A CUDA event, of the host's clock."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return (end.at - self.at) * 1e3


class StandInGraph:
    """A CUDA graph that remembers the calls of its capture."""

    def replay(self):
        for call in self.calls:
            call()


@pytest.fixture
def stand_in(monkeypatch):
    """CudaDevice, over torch's CPU: its code runs, not what it calls."""
    about = SimpleNamespace(name="Stand-in 1", major=9, minor=0, multi_processor_count=1, total_memory=1 << 30)
    about.L2_cache_size = 1 << 10
    stream = SimpleNamespace(wait_stream=lambda other: None)

    @contextlib.contextmanager
    def capture(graph):
        graph.calls = captured
        captured.clear()
        yield

    captured = []
    stand_ins = {
        "is_available": lambda: True,
        "get_device_properties": lambda number: about,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "Event": StandInEvent,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda one: contextlib.nullcontext(),
        "CUDAGraph": StandInGraph,
        "graph": capture,
    }
    for name, one in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, one)
    step = Fastinc.run

    def run_and_note(self, prepared):
        captured.append(lambda: step(self, prepared))
        return step(self, prepared)

    monkeypatch.setattr(Fastinc, "run", run_and_note)
    facts = fi.info()
    monkeypatch.setattr(fi, "info", lambda: {**facts, "cuda": {"available": True, "reason": None}})
    monkeypatch.setattr(device_module, "_EVICTED_AT_LEAST", 1 << 10)
    monkeypatch.setattr(CudaDevice, "name", "cpu")


def test_all_of_it_runs_where_there_is_a_gpu(stand_in, tmp_path):
    assert main(["gpu", "--size", "tiny", "--rounds", "1", "--threads", "2", "--out", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "gpu-stand-in-1.json").read_text())
    cases = [case for workload in facts["workloads"] for case in workload["cases"]]
    bad = [
        one for case in cases for one in case["contestants"] if one["status"] != "ok" and one["name"] != gpu_topk.FAISS
    ]
    assert bad == []
    assert facts["machine"]["gpu"]["capability"] == "9.0"
    assert all(case["caches"].startswith("all cold") for case in cases)


# --- goals --------------------------------------------------------------------------------------------------


def result_of(ours, **others):
    subject = Standing("fastinc", "subject", "", seconds=[ours] if ours else [], work=2e9)
    if not ours:
        subject.status, subject.reason = "missing", "not available: later"
    peers = [Standing(name, "peer", "", seconds=[seconds], work=2e9) for name, seconds in others.items()]
    return CaseResult("case", "bytes", [subject, *peers])


FULL = Settings("full", device="cuda")


@pytest.mark.parametrize("settings", [TINY, Settings("full"), Settings("small", device="cuda")])
def test_goals_are_for_a_gpu_at_full_size(settings):
    result = result_of(1.0, copy=1.0)
    contest.judge(result, [contest.share_of_copy(0.5)], settings)
    assert result.goals == []


def test_goals_are_compared():
    result = result_of(0.5, copy=0.4, peer=2.0)
    targets = [contest.share_of_copy(0.75), contest.share_of_copy(0.85), contest.times("peer", 4)]
    targets += [contest.billions(4.5), contest.microseconds(5e5), contest.microseconds(4e5)]
    targets += [contest.times("absent", 2, needed=False), contest.times("absent", 2)]
    contest.judge(result, targets, FULL)
    assert [goal.value for goal in result.goals[:-1]] == pytest.approx([0.8, 0.8, 4.0, 4.0, 5e5, 5e5])
    assert math.isnan(result.goals[-1].value)
    assert [goal.met for goal in result.goals] == [True, False, True, False, True, False, False]


def outcome_of(*results, **more):
    return run.Outcome(WORKLOADS["gpu/pool"], list(results), **more)


def test_the_table_says_measured_goal_and_verdict():
    good, bad, later = result_of(0.5, copy=0.4), result_of(1.0, copy=0.4), result_of(None, copy=0.4)
    for result in (good, bad, later):
        contest.judge(result, [contest.share_of_copy(0.75)], FULL)
    peerless = result_of(0.5)
    peerless.standings.append(Standing("peer", "peer", "", status="failed", reason="out of memory"))
    contest.judge(peerless, [contest.times("peer", 2)], FULL)
    text = run.goal_table([outcome_of(good, bad, later, peerless), outcome_of(failed="RuntimeError: x")])
    lines = [line.split("  ") for line in text.splitlines()]
    verdicts = [line[-1].strip() for line in lines]
    assert verdicts[1:5] == ["met", "MISSED", "not available: later", "peer: failed: out of memory"]
    assert verdicts[5] == "failed: RuntimeError: x"
    assert "gpu/pool: case: of copy bandwidth" in text
    assert "0.8  ≥ 0.75  met" in text
    counted = run.tally([outcome_of(good, bad, later, peerless), outcome_of(failed="RuntimeError: x")])
    assert counted == "goals: 1 met, 1 missed, 2 without a figure; 2 cases or workloads in which fastinc has none"


def test_what_is_missing_is_not_broken():
    assert not outcome_of(result_of(None)).broken
    assert not outcome_of(missing="not available: x").broken
    assert outcome_of(failed="x").broken
    wrong = result_of(1.0)
    wrong.subject.status = "wrong"
    assert outcome_of(wrong).broken


def test_zipf_is_held_against_uniform(monkeypatch):
    """Per distinct row."""
    monkeypatch.setattr(contest, "goals_apply", lambda settings: True)
    uniform, zipf = WORKLOADS["gpu/update"].run(TINY)
    (goal,) = zipf.goals
    expected = zipf.figures["ns a distinct row"] / uniform.figures["ns a distinct row"]
    assert (goal.value, goal.bound, goal.at_least) == (pytest.approx(expected), 1.0, False)
    assert zipf.figures["distinct rows"] < uniform.figures["distinct rows"]
    assert uniform.goals[0].what == contest.SHARE


def test_every_goal_of_the_table_is_there(monkeypatch):
    monkeypatch.setattr(contest, "goals_apply", lambda settings: True)
    goals: list[Goal] = []
    for name in ON_GPU:
        for result in WORKLOADS[name].run(Settings("tiny", rounds=1, threads=2)):
            assert not any(math.isnan(goal.value) for goal in result.goals)
            goals += result.goals
    bounds = sorted(goal.bound for goal in goals)
    assert bounds == sorted([0.6, 5, 3, 1.0, 40, 15, 0.85, 0.85, 0.75, 2.0, 0.6, 0.6, 1.0, 0.8, 4])


def test_results_of_a_case_are_the_devices(device):
    case = Case("case", lambda rng: None, 1.0, "bytes")
    (result,) = contest.contest(device, [contest.Copy(device, TINY)], [(case, [])], TINY, key=1)
    assert result.caches == device.rule
    assert result.standings[0].huge_pages is None
    assert result.standings[0].work == 2 * 65536

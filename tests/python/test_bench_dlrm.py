"""The benchmark of a DLRM's training step: right answers get times, wrong ones don't, and memory decides the rows."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import fastinc as fi

torch = pytest.importorskip("torch", reason="torch is not installed")

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench import caches, race  # noqa: E402
from bench.__main__ import main  # noqa: E402
from bench.core import Settings, WrongError, choose  # noqa: E402
from bench.inputs import Draw  # noqa: E402
from bench.workloads import dlrm  # noqa: E402
from bench.workloads._dlrm_tables import FastincTables, Shape, TorchTables  # noqa: E402

TINY = Settings("tiny", rounds=1)
SHAPE = Shape(3, 50, 8, 64)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch, one_thread):
    monkeypatch.setattr(race, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(caches, "evicting_bytes", lambda: 1 << 16)
    caches._evictor.cache_clear()
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    caches._evictor.cache_clear()


@pytest.mark.parametrize(("optimizer", "cases"), [("rowwise_adagrad", 4), ("adagrad", 4)])
def test_all_are_right_and_have_times(optimizer, cases):
    (workload,) = choose([f"dlrm/{optimizer}"])
    results = list(workload.run(TINY))
    assert len(results) == cases
    has_fbgemm = importlib.util.find_spec("fbgemm_gpu") is not None
    for result in results:
        wrong = {each.name: each.status for each in result.standings if not each.counts}
        assert wrong == ({} if has_fbgemm else {"FBGEMM TBE": "missing"})
        step = result.label.startswith("a step, 3 tables of 500 x 8, ")
        assert step == ("the dense part's share of fastinc's step" in result.figures)
        assert step == any(each.name == "dense part alone" for each in result.standings)
        fastest = [value for name, value in result.figures.items() if name.startswith("times the rate of the fastest")]
        assert len(fastest) == (has_fbgemm or optimizer == "adagrad")
        if fastest:
            assert fastest[0] == min(result.ratio(s.name) for s in result.standings if s.role == "peer" and s.counts)


def contestant(kind, maker, optimizer="adagrad"):
    made = kind(maker(optimizer, SHAPE), "subject")
    made.set_up(TINY)
    return made


def inputs_of(kind):
    make = dlrm.draw_examples if kind is dlrm.Step else dlrm.draw_given
    return make(Draw("zipf", SHAPE.rows), SHAPE, 1)(TINY.random(1))


def twice(update):
    return lambda self, ids, grads, **more: (update(self, ids, grads), update(self, ids, grads))[0]


def scaled(update):
    return lambda self, ids, grads, **more: update(self, ids, grads * 0.5)


def first_of_equal(update):
    def wrong(self, ids, grads, **more):
        distinct, first = np.unique(np.asarray(ids), return_index=True)
        return update(self, distinct, np.asarray(grads)[first])

    return wrong


@pytest.mark.parametrize("kind", [dlrm.Step, dlrm.Part])
@pytest.mark.parametrize("mistake", [twice, scaled, first_of_equal])
def test_wrong_steps_are_found(kind, mistake, monkeypatch):
    made, inputs = contestant(kind, FastincTables), inputs_of(kind)
    made.check(inputs)
    monkeypatch.setattr(fi.EmbeddingTable, "update", mistake(fi.EmbeddingTable.update))
    with pytest.raises(WrongError, match="weights of id"):
        made.check(inputs)


def test_a_wrong_forward_is_found(monkeypatch):
    made, inputs = contestant(dlrm.Step, FastincTables), inputs_of(dlrm.Step)
    forward = type(made.tables.module).forward
    monkeypatch.setattr(type(made.tables.module), "forward", lambda self, keys: forward(self, keys.flip(1)))
    with pytest.raises(WrongError, match="loss"):
        made.check(inputs)


@pytest.mark.parametrize("kind", [dlrm.Step, dlrm.Part])
def test_a_peer_that_does_not_step_is_found(kind, monkeypatch):
    made, inputs = contestant(kind, TorchTables), inputs_of(kind)
    made.check(inputs)
    monkeypatch.setattr(made.tables.module.optimizer, "step", lambda: None)
    with pytest.raises(WrongError, match="weights of id"):
        made.check(inputs)


def test_memory_decides_the_rows(monkeypatch):
    needs = dlrm.bytes_needed("adagrad", Shape(26, 1_000_000, 64, 2048))
    assert needs > 26e6 * 64 * 4 * 2 * 3  # weights and accumulators of three
    monkeypatch.setattr(dlrm.machine, "available_memory", lambda: needs)
    assert dlrm.choose_shape("adagrad", Settings("full")) == (Shape(26, 1_000_000, 64, 2048), "")
    monkeypatch.setattr(dlrm.machine, "available_memory", lambda: needs / 2)
    shape, because = dlrm.choose_shape("adagrad", Settings("full"))
    assert shape == Shape(26, 200_000, 64, 2048)
    assert because == f" (1M take {needs / 2**30:.0f} GiB, {needs / 2**31:.0f} are available)"


def test_without_torch_all_is_missing(monkeypatch, tmp_path, capsys):
    for module in ("torch", "fbgemm_gpu"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["dlrm/adagrad", "--size", "tiny", "--rounds", "1", "--out", str(tmp_path)]) == 1
    facts = json.loads((tmp_path / "dlrm-adagrad.json").read_text())
    standings = [one for case in facts["cases"] for one in case["contestants"]]
    assert {one["status"] for one in standings} == {"missing"}
    assert "missing (torch is not installed" in capsys.readouterr().out

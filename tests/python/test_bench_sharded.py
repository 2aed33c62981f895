"""The benchmark of tables over ranks: right answers, and what travels is counted."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from bench.__main__ import main
from bench.core import WrongError
from bench.inputs import Batch
from bench.workloads import sharded
from bench.workloads._sharded_ranks import Answer, Shape


def test_it_runs_and_says_what_an_id_costs(tmp_path, capsys):
    assert main(["sharded", "--size", "tiny", "--rounds", "1", "--out", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "sharded.json").read_text(), parse_constant=pytest.fail)
    printed = capsys.readouterr().out
    for case in facts["cases"]:
        assert [one["status"] for one in case["contestants"]] == ["ok"] * 4
        figures = case["figures"]
        assert figures["bytes an id, 2 ranks, float32, lookup, back"] == 4 * 8
        assert figures["bytes an id, 2 ranks, int8, lookup, back"] == 8 + 8
        assert figures["bytes an id, 2 ranks, int8, update, there"] == 8 + 8 + 8
        assert figures["bytes an id, 2 ranks, float32, update, there"] >= 8 + 4 + 4 * 8
        assert figures["µs a round of agreement, 2 ranks, float32"] > 0
        assert "bytes an id, 2 ranks, float32, lookup, there: 8" in printed


def test_wrong_rows_are_found():
    class Wrong:
        def steps(self, batches, anew):
            return [Answer(1.0, 1.0, np.ones((len(mine[0].ids), 4), np.float32), {}, 0, 0) for mine in batches]

    contestant = sharded.Sharded(Shape(2, 10, 4, "float32", "exact"), "subject")
    contestant.ranks = Wrong()
    batch = Batch(np.arange(3), np.ones((3, 4), np.float32))
    with pytest.raises(WrongError, match="not the bytes of one table"):
        contestant.check([[batch], [batch]])

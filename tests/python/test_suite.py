"""The comparison behind docs/quality.md, on streams small enough for every run of the tests."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import fastinc as fi
from fastinc.cli import evaluate as evaluate_command
from fastinc.cli import main
from fastinc.cli.suite import quality_tables
from fastinc.evaluate import suite


@pytest.fixture(scope="module")
def events():
    return fi.datasets.synthetic(3000, 80, 150, seed=4)


def test_figures_are_means_over_seeds_and_halves(events):
    makers = {"fastinc": lambda seed: fi.Recommender(dim=8, preset="fast", seed=seed)}
    both = suite.compare_models(makers, events, "shuffle", (1, 2))["fastinc"]
    apart = []
    for seed in (1, 2):
        report = fi.evaluate.prequential(
            makers["fastinc"](seed), events, ("recall@10", "ndcg@10"), baselines=False, ties="shuffle", seed=seed
        )
        apart.append(report.models["fastinc"])
    assert both.recall == pytest.approx(np.mean([one.metrics["recall@10"].value for one in apart]))
    assert both.ndcg == pytest.approx(np.mean([one.metrics["ndcg@10"].value for one in apart]))
    assert both.n == apart[0].scored
    assert (both.first + both.second) / 2 == pytest.approx(both.recall, abs=1e-3)
    assert both.first != both.second


def test_contestants_and_variants_are_new_models_of_their_names(events):
    for makers in (suite.contestants(), suite.variants()):
        for make in makers.values():
            assert make(3).n_events == 0
            assert make(3) is not make(3)
    changed = suite.variants()["no network"](5).get_params()
    plain = fi.Recommender(seed=5).get_params()
    assert {name for name in plain if plain[name] != changed[name]} == {"hidden"}


class Result:
    """Hits before the drift, none for a while after it, then as many as before."""

    def __init__(self, lost):
        hits = np.ones(6000, dtype=np.int32)
        hits[3000 : 3000 + lost] = 50
        self.outcomes = np.concatenate([np.full(10, -1, dtype=np.int32), hits])


@pytest.mark.parametrize(
    ("lost", "back"), [(0, 1000), (99, 1000), (101, 1001), (500, 1400), (2500, None), (3000, None)]
)
def test_recovery_is_when_the_last_thousand_are_at_nine_tenths(lost, back):
    before, after, events = suite.recovery(Result(lost), 3010)
    assert (before, after) == (1.0, 1.0 - min(lost, 1000) / 1000)
    assert events == back


def test_new_items_are_known_by_their_words(events):
    assert suite.cold_items(events, (1,)) is None
    titles = {int(item): f"number {item}" for item in np.unique(events.items)}
    titled = dataclasses.replace(events, item_titles=titles)
    found = suite.cold_items(titled, (1, 2))
    assert list(found) == ["random start vectors", "from the words of titles"]
    plain = suite.compare_models({"": lambda seed: fi.Recommender(seed=seed)}, events, "shuffle", (1, 2))[""]
    assert found["random start vectors"]["all"] == pytest.approx(plain.recall)
    assert found["from the words of titles"]["all"] != pytest.approx(plain.recall)


def suite_text(streams):
    return quality_tables(streams, (1,), False, lambda _: None)


def test_the_tables_are_markdown_with_every_model(events, monkeypatch):
    monkeypatch.setattr(suite, "VARIANTS", {"no network": {"hidden": 0}})
    monkeypatch.setattr(suite, "drift_table", lambda seeds, tell: {"popularity": [(0.1, 0.05, None), (0.1, 0.1, 1000)]})
    monkeypatch.setattr(suite, "measure_speed", lambda *_: suite.Speed(1234.0, 56.0))
    said = []
    titled = dataclasses.replace(events, item_titles={int(item): str(item) for item in np.unique(events.items)})
    text = quality_tables([titled], (1,), True, said.append)
    assert f"| {events.name}, from the words of titles | 0." in text
    assert "No stream has titles." in suite_text([events])
    for name in [*suite.contestants(), "no network", 'the preset "quality"']:
        assert f"| {name} | 0." in text
    assert "| popularity | 0.1000 | 0.0750 | never, 1,000 |" in text
    assert '| "fast" | 1,234 | 56 µs |' in text
    assert any("item-kNN" in what for what in said)


def test_the_command_runs_on_streams_with_their_titles_and_without_labels(events, monkeypatch):
    titled = dataclasses.replace(
        events, labels=np.ones(len(events), dtype=np.float32), item_titles={int(item): "x" for item in events.items}
    )
    given = []
    monkeypatch.setattr(evaluate_command, "open_events", lambda *_, **__: titled)
    monkeypatch.setattr(evaluate_command, "run_quality", lambda streams, *_: given.extend(streams))
    assert main(["evaluate", "--suite", "quality", "--events", "some.csv"]) == 0
    assert [stream.name for stream in given][:2] == ["MovieLens-100k, all ratings", "MovieLens-100k, ratings of 4 or 5"]
    assert len(given) == 3
    assert all(stream.item_titles == titled.item_titles and stream.labels is None for stream in given)


def test_speed_is_measured_in_events_and_microseconds(monkeypatch, events):
    monkeypatch.setattr(suite, "_REQUEST_ITEMS", 200)
    monkeypatch.setattr(suite, "_REQUESTS", 20)
    speed = suite.measure_speed(events, "fast")
    assert 1e3 < speed.learned < 1e8
    assert 1.0 < speed.request < 1e6

"""Pictures of a report: what is drawn, where it goes, what it needs."""

import sys

import numpy as np
import pytest

import fastinc as fi
from _evaluate import stream


@pytest.fixture(scope="module")
def report():
    events = fi.datasets.synthetic(2000, 60, 200, seed=1)
    labels = np.random.default_rng(0).integers(0, 2, 2000)
    events = stream(events.users, events.items, labels=labels, timestamps=events.timestamps)
    model = fi.Recommender(dim=4, loss="logistic")
    return fi.evaluate.prequential(model, events, ["recall@10", "log_loss", "coverage@5"], window=300)


def lines_of(figure):
    (axes,) = figure.axes
    return axes, {line.get_label(): line.get_xydata() for line in axes.get_lines()}


@pytest.mark.parametrize("metric", ["recall@10", "coverage@5"])
def test_the_curves_of_all_models(report, metric):
    axes, lines = lines_of(report.plot(metric=metric))
    for name, result in report.models.items():
        curve = result.curves[metric]
        drawn = lines[f"{name} ({result.metrics[metric].value:.3f})"]
        np.testing.assert_array_equal(drawn, np.column_stack([curve.events, curve.window]))
    assert len(lines) == 8  # a window and all since the beginning for each
    assert (axes.get_ylabel(), axes.get_xlabel(), axes.get_ylim()[0]) == (metric, "events scored", 0)


def test_models_without_the_metric_are_left_out(report):
    axes, lines = lines_of(report.plot(metric="log_loss"))
    assert len(lines) == 2
    assert axes.get_xlabel() == "events predicted"
    assert lines_of(report.plot())[0].get_ylabel() == "recall@10"


def test_recall_and_precision(report):
    axes, lines = lines_of(report.plot_recall_precision(k=7))
    assert set(lines) == set(report.models)
    for name, drawn in lines.items():
        np.testing.assert_array_equal(drawn, np.column_stack(report.recall_precision(name, 7)))
    assert axes.get_xlabel() == "recall at 1 to 7"


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a", b"\x89PNG"), ("A.PDF", b"%PDF")]
)
def test_files_by_their_suffix(report, tmp_path, name, start):
    for draw in (report.plot, report.plot_recall_precision):
        draw(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
        (tmp_path / name).unlink()


def test_errors_come_before_anything_is_written(report, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"path must end with one of .*got '.*a\.doc'"):
        report.plot(tmp_path / "a.doc")
    with pytest.raises(ValueError, match="metric must be one of recall@10, log_loss, coverage@5, got 'mrr'"):
        report.plot(metric="mrr")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (report.plot, report.plot_recall_precision):
        with pytest.raises(ImportError, match=r"the plot needs matplotlib.*pip install 'fastinc\[demo\]'"):
            draw(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []

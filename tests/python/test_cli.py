"""The command line, through `main`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

import fastinc as fi
from _commands import assert_one_line_error, command
from fastinc.cli import main
from fastinc.cli._console import _cell
from fastinc.cli._fresh import FRESH, LIST, watch
from fastinc.cli._options import to_json, write_json

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = ("fastinc", "popularity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small MovieLens with titles, some of which look like markup."""
    folder = tmp_path_factory.mktemp("movielens")
    stream = fi.datasets.synthetic(3000, 60, 200, seed=4, labels=True)
    rows = zip(stream.users, stream.items, stream.labels, stream.timestamps, strict=True)
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{r:g}\t{t:.0f}\n" for u, i, r, t in rows))
    (folder / "u.item").write_text("".join(f"{i}|[b]Film {i}[/b] (1990)|\n" for i in range(200)))
    return folder


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    """A model trained from the command line."""
    target = tmp_path_factory.mktemp("models") / "model"
    assert main(["train", "--events", str(folder), "--model", str(target), "--dim", "8", "--seed", "3"]) == 0
    return target


# --- what needs no engine -----------------------------------------------------------------------------------


def test_version(capsys):
    assert command(capsys, "--version") == (0, f"fastinc {fi.__version__}\n", "")


def test_the_package_runs_as_a_module():
    found = subprocess.run([sys.executable, "-m", "fastinc", "--version"], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, f"fastinc {fi.__version__}\n")


@pytest.mark.parametrize("name", ["demo", "train", "log", "evaluate", "recommend", "info"])
def test_every_command_has_help(capsys, name):
    status, out, err = command(capsys, name, "--help")
    assert (status, err) == (0, "")
    assert f"fastinc {name}" in out
    assert name in command(capsys, "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["evaluate"], "--events is needed"),
        (["train", "--events", "x", "--model", "y", "--dim", "many"], "--dim: invalid int value: 'many'"),
        (["train", "--events", "x", "--model", "y", "--loss", "hinge"], "invalid choice: 'hinge'"),
        (["evaluate", "--events", "{tmp}/none.csv"], "none.csv: no such file or directory"),
        (["evaluate", "--events", "{tmp}"], "none of u.data"),
        (["evaluate", "--events", "{tmp}/bad.csv"], "bad.csv:2: rating 'x' is not a number"),
        (
            ["evaluate", "--events", "{tmp}/bad.csv", "--columns", "user"],
            "--columns must be ROLE=NAME, got 'user'",
        ),
        (["evaluate", "--events", "{tmp}/bad.csv", "--columns", "user=a"], "no column 'a' for the users"),
        (["evaluate", "--events", "{tmp}/good.csv", "--json", "{tmp}/no/r.json"], "does not exist"),
        (["evaluate", "--events", "{tmp}/good.csv", "--plot", "{tmp}"], "--plot must be a file"),
        (["evaluate", "--events", "{tmp}/good.csv", "--min-label", "4"], "min_label=4.0 needs labels"),
        (["demo", "--events", "{tmp}/good.csv"], "the demo needs timestamps"),
        (["train", "--events", "{tmp}/good.csv", "--model", "{tmp}/good.csv"], "--model must be a directory"),
        (["recommend", "--model", "{tmp}/none", "--user", "1"], "there is no model"),
        (["recommend", "--model", "{tmp}", "--user", "1", "-k", "0"], "-k must be at least 1, got 0"),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, tmp_path, arguments, message):
    (tmp_path / "bad.csv").write_text("user,item,rating\n1,2,x\n")
    (tmp_path / "good.csv").write_text("user,item\n1,2\n")
    result = command(capsys, *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert_one_line_error(result, message)


@pytest.mark.parametrize("name", ["device", "link", "dangling", "pipe"])
def test_what_is_not_replaced_is_refused_before_the_work(capsys, tmp_path, monkeypatch, name):
    monkeypatch.setattr(fi.evaluate, "prequential", lambda *_, **__: pytest.fail("that is minutes of work"))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    path = "/dev/null" if name == "device" else tmp_path / name
    found = command(capsys, "evaluate", "--events", "synthetic", "--json", path)
    assert_one_line_error(found, "--json: path = ", "is not a regular file: it is not replaced")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "report.json").symlink_to(path)
    found = command(capsys, "demo", "--events", "synthetic", "--out", tmp_path / "demo")
    assert_one_line_error(found, "--out: path = ", "report.json", "is not a regular file")


def test_traceback_is_there_for_who_asks(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        main(["--traceback", "evaluate", "--events", str(tmp_path / "none")])


def test_a_missing_extra_is_named(capsys, monkeypatch, tmp_path):
    for module, extra in (("rich", "demo"), ("matplotlib", "demo")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            commands = {
                "rich": ["demo", "--out", tmp_path],
                "matplotlib": ["evaluate", "--events", "synthetic", "--plot", tmp_path / "p.png"],
            }
            result = command(capsys, *commands[module])
            assert_one_line_error(result, f"needs {module}, which is not installed: pip install 'fastinc[{extra}]'")


def test_json_is_json_and_written_whole(tmp_path):
    value = {1: [np.float32(0.5), float("nan")], "a": (np.inf, np.arange(2)), "t": "é"}
    assert json.loads(to_json(value)) == {"1": [0.5, None], "a": [None, [0, 1]], "t": "é"}
    write_json(tmp_path / "x.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"new": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


# --- with the engine ----------------------------------------------------------------------------------------


def test_info(capsys):
    status, out, _ = command(capsys, "info", "--json")
    assert status == 0
    assert json.loads(out) == json.loads(to_json(fi.info()))
    status, out, _ = command(capsys, "info")
    assert status == 0
    for name in fi.info():
        assert name in out


def test_evaluate_prints_writes_and_plots(capsys, folder, tmp_path):
    report_file, plot_file = tmp_path / "report.json", tmp_path / "plot.png"
    status, out, err = command(
        capsys,
        *("evaluate", "--events", folder, "--metrics", "recall@5", "mrr", "--window", 200),
        *("--dim", 8, "--loss", "bpr", "--lr", 0.05, "--optimizer", "sgd", "--min-label", 2),
        *("--ties", "shuffle", "--json", report_file, "--plot", plot_file),
    )
    assert status == 0, err
    for text in (
        "fastinc",
        "popularity",
        "item-kNN",
        "item-kNN (recency)",
        "recall@5",
        "mrr",
        "±",
        "events/s",
    ):
        assert text in out
    assert "\x1b" not in out + err  # no terminal, no colours
    assert "item-kNN (recency): " in err
    assert set(json.loads(report_file.read_text())) >= {"models", "protocol"}
    assert plot_file.read_bytes().startswith(PNG)


@pytest.mark.parametrize("rich", [True, False])
def test_evaluate_with_labels_lists_and_a_delay(capsys, folder, tmp_path, monkeypatch, rich):
    if not rich:
        monkeypatch.setattr("fastinc.cli._console.has_rich", lambda: False)
    metrics = ["rmse", "coverage@5", "novelty@5", "precision@5", "f1@5", "hit_rate@5", "map@5"]
    status, out, err = command(
        capsys,
        *("evaluate", "--events", folder, "--metrics", *metrics, "--loss", "mse", "--dim", 8),
        *("--delay", 60, "--json", tmp_path / "r.json", "--plot", tmp_path / "plot.svg"),
    )
    assert status == 0, err
    for text in (*metrics, "delay: an event is learned 60 s after it happened"):
        assert text in out
    rows = {name: next(line for line in out.splitlines() if line.lstrip("| ").startswith(name)) for name in NAMES}
    cells = {name: [cell for cell in row.split() if cell not in ("|", "±")] for name, row in rows.items()}
    assert cells["popularity"][1] == "-"  # predicts no labels
    models = json.loads((tmp_path / "r.json").read_text())["models"]
    assert models["popularity"]["metrics"]["rmse"]["value"] is None
    assert cells["fastinc"][1] == f"{models['fastinc']['metrics']['rmse']['value']:.4f}"
    assert (tmp_path / "plot.svg").read_bytes().startswith(b"<?xml")


def test_the_best_is_the_least_error_and_the_most_of_all_else():
    events = fi.datasets.synthetic(1500, 60, 120, seed=2, labels=True)
    good, bad = (
        fi.evaluate.prequential(model, events, ["rmse", "recall@10"], baselines=False).models["fastinc"]
        for model in (fi.Recommender(dim=4, loss="mse"), fi.Recommender(dim=4, loss="mse", optimizer=fi.SGD(lr=0.2)))
    )
    report = fi.evaluate.PrequentialReport({"good": good, "bad": bad}, "", "", ("rmse", "recall@10"), 100)
    for metric, best in (("rmse", min), ("recall@10", max)):
        values = {name: result.metrics[metric].value for name, result in report.models.items()}
        assert values["good"] != values["bad"]
        for name, value in values.items():
            assert ("[bold]" in _cell(report, metric, name, bold=True)) == (value == best(values.values()))
            assert "[bold]" not in _cell(report, metric, name, bold=False)


def test_evaluate_works_without_rich_and_without_baselines(capsys, folder, monkeypatch):
    monkeypatch.setattr("fastinc.cli._console.has_rich", lambda: False)
    status, out, _ = command(capsys, "evaluate", "--events", folder, "--no-baselines", "--dim", 8)
    assert status == 0
    assert "fastinc" in out
    assert "popularity" not in out


def test_evaluate_counts_skipped_rows(capsys, folder, tmp_path):
    file = tmp_path / "u.data"
    file.write_text((folder / "u.data").read_text() + "1\t2\n")
    assert_one_line_error(command(capsys, "evaluate", "--events", file), "u.data:3001: expected 4 fields")
    status, out, _ = command(capsys, "evaluate", "--events", file, "--errors", "skip", "--no-baselines", "--dim", 8)
    assert status == 0
    assert "1 rows of" in out


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--metrics", "accuracy"], "accuracy"),
        (["--metrics", "auc"], "'auc' needs labels above 0 and labels at most 0"),
        (["--metrics", "rmse"], "needs a model that predicts labels"),
        (["--delay", "-1"], "delay"),
        (["--plot", "plot.doc"], "plot.doc"),
        (["--window", "0"], "window"),
        (["--lr", "-1"], "lr"),
        (["--dim", "0"], "dim"),
    ],
)
def test_the_engines_refusals_are_one_line_too(capsys, folder, options, name):
    assert_one_line_error(command(capsys, "evaluate", "--events", folder, *options), name)


def test_recommend(capsys, folder, model):
    status, out, _ = command(capsys, "recommend", "--model", model, "--user", 3, "--user", 12345, "-k", 4, "--json")
    assert status == 0
    known, stranger = json.loads(out)
    assert (known["user"], stranger["user"]) == (3, 12345)
    events = fi.datasets.movielens(folder)
    seen = set(events.items[events.users == 3].tolist())
    for answer in (known, stranger):
        assert len(answer["items"]) == len(set(answer["items"])) == len(answer["scores"]) == 4
        assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert not seen & set(known["items"])
    status, out, _ = command(capsys, "recommend", "--model", model, "--user", 3, "-k", 4)
    assert status == 0
    assert [int(line.split()[1]) for line in out.splitlines()[1:]] == known["items"]
    # What does not exist is left out, not padded.
    status, out, _ = command(capsys, "recommend", "--model", model, "--user", 3, "-k", 500, "--json")
    assert len(json.loads(out)[0]["items"]) <= 200 - len(seen)
    status, out, _ = command(capsys, "recommend", "--model", model, "--user", 3, "-k", 500, "--json", "--include-seen")
    assert seen <= set(json.loads(out)[0]["items"])
    assert_one_line_error(command(capsys, "recommend", "--model", model, "--user", "bob"), "--user bob")


def test_users_that_look_like_integers_but_are_strings(capsys, tmp_path):
    file = tmp_path / "e.csv"
    file.write_text("user,item\n" + "".join(f"{u},{i}\n" for u in ("7", "007", "ann") for i in ("a", "b", u)))
    assert command(capsys, "train", "--events", file, "--model", tmp_path / "m", "--dim", 4)[0] == 0
    for user in ("7", "007", "ann", "new"):
        status, out, err = command(capsys, "recommend", "--model", tmp_path / "m", "--user", user, "--json")
        assert status == 0, err
        items = json.loads(out)[0]["items"]
        assert not {"a", "b", user} & set(items) if user != "new" else len(items) == 5


def test_training_is_reproducible(capsys, folder, model, tmp_path):
    again = tmp_path / "again"
    assert command(capsys, "train", "--events", folder, "--model", again, "--dim", 8, "--seed", 3)[0] == 0
    answers = [command(capsys, "recommend", "--model", m, "--user", 5, "--json")[1] for m in (model, again)]
    assert answers[0] == answers[1]


def test_demo(capsys, folder, tmp_path):
    status, out, err = command(capsys, "demo", "--events", folder, "--out", tmp_path / "out", "--seed", 1)
    assert status == 0, err
    for text in (
        "fastinc",
        "popularity",
        "recall@10",
        "ndcg@10",
        "top 10 before",
        "ten fresh events",
        "[b]Film ",
    ):
        assert text in out
    assert (tmp_path / "out" / "recall.png").read_bytes().startswith(PNG)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["seed"] == 1
    assert len(report["fresh_events"]) == 3
    for visit in report["fresh_events"]:
        assert len(visit["before"]["items"]) == len(visit["after"]["items"]) == len(visit["fresh"]["items"]) == 10
        assert not set(visit["after"]["items"]) & set(visit["fresh"]["items"])
        assert all(name.startswith("[b]Film ") for name in visit["after"]["titles"])


def test_demo_without_enough_events_of_anyone(capsys, tmp_path):
    file = tmp_path / "e.csv"
    rows = (f"{n % 30},{n * 7 % 23},{n}\n" for n in range(300))
    file.write_text("user,item,timestamp\n" + "".join(rows))
    status, out, err = command(capsys, "demo", "--events", file, "--out", tmp_path / "out")
    assert status == 0, err
    assert "No user has events enough" in out


class Recorder:
    """A model that remembers what it was told and asked; its list is the items learned last."""

    def __init__(self):
        self.learned, self.asked, self.count = [], [], 0

    def partial_fit_events(self, events):
        columns = (events.users, events.items, events.timestamps)
        self.learned += zip(*(column.tolist() for column in columns), strict=True)

    def recommend(self, users, k, at):
        self.asked.append((users.tolist(), at, len(self.learned)))
        last = [item for _, item, _ in self.learned[-k + 1 :]]
        return np.array([[*last, -1]]), np.array([[1.0] * len(last) + [-np.inf]])


def test_visits_use_nothing_of_the_future(folder):
    events = fi.datasets.movielens(folder).sorted()
    stream = list(zip(events.users.tolist(), events.items.tolist(), events.timestamps.tolist(), strict=True))
    model = Recorder()
    steps = []
    visits = watch(model, events, seed=2, progress=lambda *step: steps.append(step))
    assert len(visits) == 3
    assert len({visit.user for visit in visits}) == 3
    assert len(model.learned) == len(set(model.learned))  # each event once
    assert steps[-1][1] == steps[-1][2]
    fresh_so_far = []
    for visit, (users, at, learned), (_, later, learned_after) in zip(
        visits, model.asked[::2], model.asked[1::2], strict=True
    ):
        own = [event for event in stream if event[0] == visit.user]
        middle = len(own) // 2
        fresh = own[middle : middle + FRESH]
        assert (users, at, later) == ([visit.user], fresh[0][2], fresh[-1][2])
        assert (visit.history, visit.learned) == (middle, learned)
        assert visit.fresh == [item for _, item, _ in fresh]
        # Known when first asked: the stream up to the first fresh event, and earlier visits' fresh events.
        moment = stream.index(fresh[0])
        assert set(model.learned[:learned]) == set(stream[:moment]) | set(fresh_so_far)
        assert model.learned[learned:learned_after] == fresh
        fresh_so_far += fresh
        assert len(visit.before.items) == LIST - 1  # the padding is gone
        rest = {item for _, item, _ in own[middle + FRESH :]}
        assert visit.after.taken == [item in rest for item in visit.after.items]
        assert visit.after.new == [item not in visit.before.items for item in visit.after.items]


def test_a_reader_that_goes_away_is_no_error(model):
    """`fastinc recommend ... | head -1` must neither fail loudly nor print a traceback."""
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from fastinc.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "recommend", "--model", str(model), "--user", "1"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_was_closed_before_is_no_error(folder, closed, tmp_path):
    """As a supervisor may start it: Python then has no sys.stdout, or no sys.stderr."""
    commands = (["train", "--events", folder / "u.data", "--model", tmp_path / "m"], ["info"])
    for arguments in commands:
        line = " ".join(shlex.quote(str(part)) for part in (sys.executable, "-m", "fastinc", *arguments))
        done = subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["train", "--events", "synthetic"], ["train", "--from", "x.csv"], ["recommend"]])
def test_an_empty_name_is_not_the_current_folder(capsys, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    user = ["--user", "1"] if command == ["recommend"] else []
    assert main([*command, *user, "--model", ""]) == 2
    assert "--model = '' is empty; the current folder is '.'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

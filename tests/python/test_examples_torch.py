"""The examples over fi.torch run as a user runs them, learn, and show what they say."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastinc as fi

torch = pytest.importorskip("torch", reason="torch is not installed")

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import dlrm  # noqa: E402
import two_tower  # noqa: E402

SMALL = ("--rows", "1000", "--dim", "8", "--batch", "256", "--steps", "100")
fbgemm_is_here = pytest.mark.skipif(importlib.util.find_spec("fbgemm_gpu") is None, reason="FBGEMM is not installed")


def run(name, *arguments, warnings="error"):
    """Return the output of an example in a process of its own, where a warning is an error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FASTINC_NUM_THREADS": "1"}
    command = [sys.executable, "-W", warnings, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(name, shown):
    return [float(value) for value in re.findall(rf"{name} ([\d.]+)", shown)]


# --- DLRM -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("embeddings", "optimizer"),
    [
        ("fastinc", "rowwise_adagrad"),
        ("fastinc", "adam"),
        ("torch", "adagrad"),
        pytest.param("fbgemm", "rowwise_adagrad", marks=fbgemm_is_here),
    ],
)
def test_dlrm_learns(embeddings, optimizer):
    # FBGEMM's wheel warns of its own missing parts.
    warnings = "ignore" if embeddings == "fbgemm" else "error"
    shown = run("dlrm.py", "--embeddings", embeddings, "--optimizer", optimizer, *SMALL, warnings=warnings)
    losses = figures("loss", shown)
    assert len(losses) == 10
    assert losses[-1] < 0.95 * losses[0]
    assert all(float(rate.replace(",", "")) > 0 for rate in re.findall(r"([\d,]+) examples/s", shown))
    last = shown.splitlines()[-1]
    assert last.startswith(f"{embeddings}, {optimizer}: ")
    rows = int(re.search(r"([\d,]+) rows in 26 tables", last)[1].replace(",", ""))
    distinct = sum(min(1000, many) for many in dlrm.CARDINALITIES)
    assert 1000 < rows <= distinct if embeddings == "fastinc" else rows == 26 * 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--embeddings", "torch"), "torch has no rowwise_adagrad"),
        (("--embeddings", "fbgemm", "--optimizer", "adam"), "FBGEMM has no adam on the CPU"),
        (("--embeddings", "fbgemm"), "FBGEMM can't be imported"),
    ],
)
def test_dlrm_says_what_it_cannot_do(arguments, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    monkeypatch.setattr(sys, "argv", ["dlrm.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        dlrm.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_generated_batches():
    cardinalities = (4, 1000)
    (batch,) = dlrm.generate(1, 20_000, cardinalities)
    (plain,) = dlrm.generate(1, 20_000, cardinalities, hashed=False)
    assert batch.dense.shape == (20_000, dlrm.DENSE)
    assert batch.ids.shape == (2, 20_000)
    assert set(batch.labels.tolist()) == {0.0, 1.0}
    assert torch.equal(batch.labels, plain.labels)
    for hashed, values, many in zip(batch.ids.numpy(), plain.ids.numpy(), cardinalities, strict=True):
        assert values.min() == 0
        assert values.max() < many
        pairs = np.unique(np.stack([hashed, values]), axis=1)
        assert pairs.shape[1] == len(np.unique(hashed)) == len(np.unique(values))
        ranks = np.arange(1, 5)
        law = np.log1p(1 / ranks) / np.log(many + 1)
        shares = np.bincount(values, minlength=5)[:4] / len(values)
        np.testing.assert_allclose(shares, law, atol=0.015)
    assert (batch.ids[1] < 0).float().mean() > 0.1  # any int64, not row numbers
    assert batch.ids[1].abs().max() > 2**60
    (other,) = dlrm.generate(1, 100, cardinalities, seed=1)
    assert not torch.equal(other.ids, batch.ids[:, :100])


def test_clicks_depend_on_the_categories():
    """With rows that learn, the loss goes lower than with the dense part alone."""
    ends = []
    for lr in (0.0, 0.1):
        torch.manual_seed(0)
        model = dlrm.Dlrm(dlrm.FastincEmbeddings(6, 100, 8, "adagrad", lr), 6, 8)
        optimizer = torch.optim.Adam(model.dense_parameters(), lr=3e-3)
        losses = [dlrm.train_step(model, optimizer, batch) for batch in dlrm.generate(120, 256, [100] * 6)]
        ends.append(np.mean(losses[-20:]))
    assert ends[1] < 0.97 * ends[0]


# --- two towers -----------------------------------------------------------------------------------------------


def test_two_towers_learn_while_they_serve():
    shown = run("two_tower.py", "--synthetic")
    losses, rates = figures("loss", shown), figures("lr", shown)
    popular, *recalls = figures("recall@10", shown)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]
    assert rates == sorted(rates, reverse=True)  # the tables follow the schedule, from their rate to nothing
    assert (rates[0], rates[-1]) == (0.05, 0.0)
    assert len(losses) == len(rates) - 1 == len(recalls) - 1
    assert recalls[0] > 0.01  # the rows of the older model
    assert recalls[-1] > max(popular, recalls[0]) + 0.005
    lists = [line.split(": ")[1].split(", ") for line in shown.splitlines() if line.startswith("  user")]
    assert len(lists) == 3 * len(rates)
    assert all(len(set(items)) == 10 for items in lists)
    assert lists[0] != lists[-3]


def test_two_towers_take_movielens_files(tmp_path):
    rng = np.random.default_rng(0)
    users = rng.integers(1, 60, 3000)
    items = 2 * rng.integers(0, 74, 3000) + 1 + users % 2  # users like films of one kind
    rows = [f"{user}\t{item}\t4\t{time}" for time, (user, item) in enumerate(zip(users, items, strict=True))]
    (tmp_path / "u.data").write_text("\n".join(rows) + "\n")
    titles = [f"{item}|{'Star Trek' if item % 2 else 'Dracula'} {item} (1998)" for item in range(1, 150)]
    (tmp_path / "u.item").write_text("\n".join(titles) + "\n")
    arguments = ("--events", str(tmp_path), "--cold-start", "--batch", "128", "--epochs", "8", "--lr", "0.1")
    shown = run("two_tower.py", *arguments)
    *_, last = (line for line in shown.splitlines() if line.startswith("  user"))
    user = int(re.search(r"user (\d+)", last)[1])
    theirs, others = ("Dracula", "Star Trek") if user % 2 else ("Star Trek", "Dracula")
    assert last.count(theirs) > last.count(others)


def test_a_search_sees_the_step_before_it():
    optimizer = fi.SGD(lr=1.0)
    tables = [fi.EmbeddingTable(4, optimizer, fi.init.Normal(1.0, seed=seed)) for seed in (1, 2)]
    ids = torch.arange(20)
    for table in tables:
        table.load(ids, torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    model = two_tower.TwoTowers(*map(fi.torch.Embedding, tables), 4)
    index = fi.LiveIndex(tables[1], "exact", metric="ip")
    before = tables[1].lookup(ids).copy()
    model.loss(ids, ids, torch.zeros(20)).backward()
    with torch.no_grad():
        queries = model.user_vectors(ids)
    scores, items = index.search(queries, k=20)
    rows = tables[1].lookup(ids)
    assert np.abs(rows - before).max() > 0.01
    expected = np.take_along_axis(queries.numpy() @ rows.T, items, axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)

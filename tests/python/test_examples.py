"""The examples run, and show what they are there for."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def train_distributed(group, arguments):
    example = runpy.run_path(str(EXAMPLES / "train_distributed.py"))
    return example["train"](example["parse"](arguments), group)


def test_train_distributed(tmp_path):
    pytest.importorskip("torch")
    from _ranks import on_ranks

    arguments = ["--steps", "60", "--batch", "64", "--rows", "400", "--dim", "16", "--save", str(tmp_path / "saved")]
    first, second = on_ranks(2, train_distributed, arguments)
    assert first == second
    assert np.mean(first[-10:]) < 0.8 * np.mean(first[:10])
    assert (tmp_path / "saved" / "manifest.json").exists()


def test_train_distributed_under_torchrun():
    pytest.importorskip("torch")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    sizes = ["--steps", "10", "--batch", "16", "--rows", "100", "--dim", "8"]
    done = subprocess.run(
        [*torchrun, str(EXAMPLES / "train_distributed.py"), *sizes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rows on 2 ranks" in done.stdout


def test_train_distributed_goes_on(tmp_path):
    """From its last checkpoint, as if it had never stopped."""
    pytest.importorskip("torch")
    from _ranks import on_ranks

    def train(folder, steps):
        sizes = ["--batch", "32", "--rows", "200", "--dim", "8", "--save-every", "8"]
        return on_ranks(2, train_distributed, [*sizes, "--steps", str(steps), "--save", str(tmp_path / folder)])[0]

    at_once = train("at_once", 24)
    first, rest = train("in_parts", 16), train("in_parts", 24)
    assert first + rest == at_once
    assert [path.name for path in (tmp_path / "in_parts").glob("*.pt")] == ["dense-24.pt"]


def test_cold_start(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    users = rng.integers(1, 60, 3000)
    items = 2 * rng.integers(0, 74, 3000) + 1 + users % 2  # users like films of one kind
    rows = [f"{user}\t{item}\t4\t{time}" for time, (user, item) in enumerate(zip(users, items, strict=True))]
    (tmp_path / "u.data").write_text("\n".join(rows) + "\n")
    titles = [f"{item}|{'Star Trek' if item % 2 else 'Dracula'} {item} (1998)" for item in range(1, 150)]
    (tmp_path / "u.item").write_text("\n".join(titles) + "\n")
    monkeypatch.setattr(sys, "argv", ["cold_start.py", "--no-encoder", "--events", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "cold_start.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "random start" in shown
    assert "from the words" in shown
    similar = next(line for line in shown.splitlines() if "Voyage to Andromeda" in line)
    assert similar.count("Star Trek") > similar.count("Dracula")
    assert "explore=0.05: " in shown
    (tmp_path / "u.item").unlink()
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLES / "cold_start.py"), run_name="__main__")

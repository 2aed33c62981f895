"""The README's example runs as printed, and its tables name what exists."""

import re
import subprocess
import sys
from pathlib import Path

import fastinc as fi

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_example_runs_as_printed(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(3, 10) (2, 5)")


def test_names_exist() -> None:
    for name in re.findall(r"`fi\.([A-Za-z_.]+)`", README):
        target = fi
        for part in name.split("."):
            target = getattr(target, part)

"""The README's examples run as printed, and its tables name what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastinc as fi

README = (Path(__file__).parents[2] / "README.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
PRINTED = [
    "(3, 10) (2, 5)",
    "10 12800\n",
    "3 1000 16\n",
    "1 1280\n",
    "True True True True\n",
    "3000 2000\n",
    "1000 Lag(records=0, versions=0, milliseconds=0.0)\n",
    "300 True\n",
    "rollback at event 15,000: recall@10 0.",
    "1000 0\n",
]


@pytest.mark.parametrize(("code", "printed"), list(zip(EXAMPLES, PRINTED, strict=True)))
def test_examples_run_as_printed(tmp_path: Path, code: str, printed: str) -> None:
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(printed)


def test_names_exist() -> None:
    for name in re.findall(r"`fi\.([A-Za-z_.]+)`", README):
        target = fi
        for part in name.split("."):
            target = getattr(target, part)


def test_docs_of_durability_name_tests_that_exist() -> None:
    tests, file, named = Path(__file__).parent, "", 0
    text = (tests.parents[1] / "docs" / "durability.md").read_text()
    for found in re.finditer(r"`(test_\w+\.py)?(?:::)?(test_\w+)?`", text):
        file = found[1] or file
        if found[2]:
            named += 1
            assert f"def {found[2]}(" in (tests / file).read_text(), f"{file}::{found[2]}"
        assert not file or (tests / file).exists(), file
    assert named > 25

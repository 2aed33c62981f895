"""The stub of the compiled module says what the module has."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

#: pybind11 gives its classes a metaclass of its own, which a stub can't name.
UNAVOIDABLE = "is inconsistent, metaclass differs"


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy isn't installed")
def test_stub_matches_the_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "fastinc._core", "--concise"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.strip() and not line.endswith(UNAVOIDABLE)]
    assert not done.stderr, done.stderr
    assert found in ([], ["Success: no issues found in 1 module"])

"""The loaders take nothing that nobody saved: random mutations, for a while (FASTINC_FUZZ_SECONDS)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

SECONDS = float(os.environ.get("FASTINC_FUZZ_SECONDS", 4 if os.environ.get("FASTINC_SHORT_TESTS") else 20))


def test_random_mutations_are_refused_or_harmless():
    path = Path(__file__).parents[1] / "fuzz" / "fuzz_checkpoint.py"
    spec = importlib.util.spec_from_file_location("fuzz_checkpoint", path)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    counts = fuzz.mutate(SECONDS, seed=int.from_bytes(os.urandom(4), "little"))
    assert counts["fed"] > 50 * SECONDS
    assert 0 < counts["loaded"] < counts["fed"]

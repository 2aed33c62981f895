"""Fixtures that every engine test shares: instruction set and thread count, restored afterwards."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import fastinc as fi

# `_reference` and its kin, under every import mode of pytest.
sys.path.insert(0, str(Path(__file__).parent))

import _devices

# Under a sanitizer each example takes many times as long.
EXAMPLES = 4 if os.environ.get("FASTINC_SHORT_TESTS") else 80
slow = [HealthCheck.too_slow]
settings.register_profile("fastinc", deadline=None, max_examples=EXAMPLES, suppress_health_check=slow)
settings.load_profile("fastinc")


@pytest.fixture(params=["base", "v3", "v4"])
def isa(request):
    """Run the test under each instruction set this CPU and build have."""
    if request.param not in fi.info()["isas"]:
        pytest.skip(f"this CPU or build has {fi.info()['isas']}, not {request.param}")
    if _devices.Devices.current == "cuda" and request.param != "base":
        pytest.skip("the CPU's instruction sets")
    before = fi.get_isa()
    fi.set_isa(request.param)
    assert fi.get_isa() == request.param
    yield request.param
    fi.set_isa(before)


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    """Run the test with several thread counts, whatever the number of CPUs."""
    before = fi.get_num_threads()
    fi.set_num_threads(request.param)
    assert fi.get_num_threads() == request.param
    yield request.param
    fi.set_num_threads(before)


@pytest.fixture
def one_thread():
    """One thread for the engine, so that timing tests have the other CPU."""
    before = fi.get_num_threads()
    fi.set_num_threads(1)
    yield
    fi.set_num_threads(before)


def pytest_runtest_logreport(report):
    """Count the tests on CUDA: on a GPU, under the emulator, and not at all."""
    if "[cuda" not in report.nodeid:
        return
    if report.skipped:
        _devices.counts["skipped"] += 1
    elif report.when == "call":
        _devices.counts[_devices.CUDA or "skipped"] += 1


def pytest_terminal_summary(terminalreporter):
    gpu, emulated, skipped = (_devices.counts[name] for name in ("gpu", "emulated", "skipped"))
    if gpu + emulated + skipped:
        line = f"CUDA: {gpu} tests ran on a GPU, {emulated} under the emulator, {skipped} not at all"
        terminalreporter.write_line(line + (f" ({_devices.NO_CUDA})" if not _devices.CUDA else ""))

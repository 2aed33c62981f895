"""``bench/gpu_check.sh`` with stand-ins for Python, the GPU and the sanitizer: which steps run, and what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu_check.sh"
OPTIONS = ("STEPS", "OUT", "WHEELS", "PYTHON", "SIZE", "BENCH", "SECONDS_FOR_ALL", "LIMITS")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "timeout"))), reason="needs bash and timeout, as on Linux"
)

PYTHON = r"""#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
  "-m venv"*) mkdir -p "${@: -1}/bin" "${@: -1}/lib"; cp "$0" "${@: -1}/bin/python" ;;
  *sysconfig*) echo "$(dirname "$0")/../lib" ;;
  *Requirement*) cat > /dev/null; [ -e "$HAVE" ] || printf '%s' "${MISSING:-}" ;;
  *"-m pip install --quiet"*) touch "$HAVE" ;;
  *"-m pip"*) exit "${PIP:-0}" ;;
  *"-m pytest"*) sleep "${SLEEP:-0}"; echo "CUDA: ${TESTS:-12} tests ran on a GPU, 0 under the emulator"
    echo "===== 12 passed in 1 s ====="; exit "${PYTEST:-0}" ;;
  *"-m bench"*) echo "the table of goals"; echo "goals: 3 met"; exit "${BENCHED:-0}" ;;
  *info*) echo "CUDA: {}" ;;
esac
"""
SANITIZER = """#!/bin/bash
echo "sanitizer $*" >> "$CALLS"
echo "short: $FASTINC_SHORT_TESTS"
echo "========= ERROR SUMMARY: ${ERRORS:-0} errors"
exit "${ERRORS:-0}"
"""


class Check:
    """The script, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.calls = folder, folder / "out", folder / "calls"
        self.stubs = folder / "stubs"
        self.stubs.mkdir()
        for name, text in {"python3": PYTHON, "compute-sanitizer": SANITIZER, "nvidia-smi": "#!/bin/bash\n"}.items():
            (self.stubs / name).write_text(text)
            (self.stubs / name).chmod(0o755)

    def __call__(self, **environment):
        self.calls.write_text("")
        paths = {"OUT": self.out, "GPU_VENV": self.folder / "venv", "CALLS": self.calls, "HAVE": self.folder / "have"}
        kept = {name: value for name, value in os.environ.items() if name not in OPTIONS}
        variables = {
            **kept,
            "PATH": f"{self.stubs}:/usr/bin:/bin",
            **{k: str(v) for k, v in paths.items()},
            **environment,
        }
        done = subprocess.run(
            ["bash", str(SCRIPT)], env=variables, capture_output=True, text=True, timeout=60, check=False
        )
        return done

    def summary(self):
        lines = (self.out / "gpu-check.txt").read_text().splitlines()[2:]
        return {line.split()[0]: line for line in lines}


@pytest.fixture
def check(tmp_path):
    return Check(tmp_path)


def test_all_steps_run_in_order_and_say_what_they_came_to(check):
    done = check()
    assert done.returncode == 0, done.stdout + done.stderr
    summary = check.summary()
    assert list(summary) == ["build", "test", "bench", "memcheck", "racecheck"]
    assert all(" passed, " in line for line in summary.values())
    assert "CUDA: 12 tests ran on a GPU" in summary["test"]
    assert "goals: 3 met" in summary["bench"]
    assert "ERROR SUMMARY: 0 errors" in summary["racecheck"]
    calls = check.calls.read_text()
    assert "-m pip install --no-build-isolation --no-index --no-deps" in calls
    assert "cmake.define.FASTINC_CUDA=ON -C cmake.define.CMAKE_CUDA_ARCHITECTURES=native ." in calls
    assert f"-m bench gpu --size full --out {check.out}" in calls
    assert "sanitizer --tool racecheck --error-exitcode 9" in calls
    assert "-k cuda tests/python/test_" in calls
    log = (check.out / "gpu-check.log").read_text()
    assert "the table of goals" in log
    assert "short: 1" in log


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        ({"PYTEST": "1"}, {"test"}),
        ({"TESTS": "0"}, {"test"}),
        ({"BENCHED": "1"}, {"bench"}),
        ({"ERRORS": "9"}, {"memcheck", "racecheck"}),
        ({"PIP": "1"}, {"build", "test", "bench", "memcheck", "racecheck"}),
    ],
)
def test_a_failing_step_stops_no_other(check, broken, failing):
    done = check(**broken)
    assert done.returncode == 1
    summary = check.summary()
    assert len(summary) == 5
    assert {step for step, line in summary.items() if "FAILED" in line} == failing


def test_steps_are_chosen_and_use_what_was_built(check):
    assert check(STEPS="bench").returncode == 1
    assert "not built: STEPS=build comes first" in check.summary()["bench"]
    assert check(STEPS="build").returncode == 0
    done = check(STEPS="bench sanitize", SIZE="small", BENCH="gpu/pool gpu/topk")
    assert done.returncode == 0
    assert list(check.summary()) == ["bench", "memcheck", "racecheck"]
    assert "-m bench gpu/pool gpu/topk --size small" in check.calls.read_text()
    assert "venv" not in check.calls.read_text().split()
    assert check(STEPS="bench dance").returncode == 2


def test_a_failed_build_leaves_nothing_to_measure(check):
    assert check(STEPS="build").returncode == 0
    assert check(STEPS="build bench", PIP="1").returncode == 1
    assert "not built" in check.summary()["bench"]


def test_missing_parts_are_named_or_come_from_wheels(check):
    done = check(STEPS="build", MISSING="boost-headers>=1.85\napache-tvm-ffi>=0.1.10")
    assert done.returncode == 1
    assert "missing for build and tests: boost-headers>=1.85, apache-tvm-ffi>=0.1.10. Put wheels" in done.stdout
    assert "say WHEELS=FOLDER" in done.stdout
    done = check(STEPS="build", MISSING="boost-headers>=1.85", WHEELS="/some/wheels")
    assert done.returncode == 0, done.stdout
    assert "--no-index --no-deps --find-links /some/wheels boost-headers>=1.85" in check.calls.read_text()


def test_a_step_that_takes_too_long_is_stopped(check):
    assert check(STEPS="build").returncode == 0
    done = check(STEPS="test bench", SLEEP="30", LIMITS="test=1")
    assert done.returncode == 1
    assert "FAILED, over its 1 s" in check.summary()["test"]
    assert "passed" in check.summary()["bench"]
    check(STEPS="bench", SECONDS_FOR_ALL="0")
    assert "FAILED, over its 0 s" in check.summary()["bench"]


def test_no_sanitizer_is_said_and_no_failure(check):
    (check.stubs / "compute-sanitizer").unlink()
    if shutil.which("compute-sanitizer", path="/usr/bin:/bin:/usr/local/cuda/bin"):
        pytest.skip("there is one")
    done = check()
    assert done.returncode == 0
    assert "not run, " in check.summary()["memcheck"]
    assert "there is no compute-sanitizer" in check.summary()["racecheck"]

#!/usr/bin/env bash
# Builds, tests, measures and sanitizes the CUDA engine on a machine with an NVIDIA GPU, offline: `make gpu-check`.
# A step that fails stops no other; the last lines say what each came to. From the environment:
#   STEPS   which, of "build test bench sanitize"; those after build use what an earlier call built
#   OUT     where results go: gpu-check.txt, gpu-check.log and the benchmark's gpu-*.json and .txt (bench/results)
#   WHEELS  a folder of wheels of those parts of the build that this machine's Python lacks
#   PYTHON  one with torch, pytest, hypothesis and what a build needs (python3)
#   SIZE, BENCH  size (full) and names (gpu) of the benchmark's workloads
#   SECONDS_FOR_ALL  what all steps together may take (570); LIMITS, "build=270 ...", what each may
set -uo pipefail
cd "$(dirname "$0")/.."
STEPS=${STEPS:-build test bench sanitize}
export OUT=${OUT:-bench/results} WHEELS=${WHEELS:-} PYTHON=${PYTHON:-python3} GPU_VENV=${GPU_VENV:-build/gpu-venv}
LIMITS="build=270 test=120 bench=200 memcheck=90 racecheck=90 ${LIMITS:-}"
LOG_BYTES=3000000  # of a step are kept: the last ones
PY=$GPU_VENV/bin/python

say() { printf '%s\n' "$@"; }

make_venv() {
  # pip comes from the parent, as the rest does. $PYTHON may be of a virtual environment itself, whose packages
  # --system-site-packages would leave out: hence the .pth file.
  "$PYTHON" -m venv --without-pip --system-site-packages "$GPU_VENV" || return 1
  "$PYTHON" -c 'import sys; print("\n".join(p for p in sys.path if p.endswith("-packages")))' \
    > "$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
}

# Those requirements of the build and the tests that aren't met, one a line; programs count for packages.
missing_parts() {
  { sed -n '/^requires = \[/,/^\]/s/^ *"\([^"]*\)",.*$/\1/p' pyproject.toml
    printf '%s\n' 'cmake>=3.25' 'ninja>=1.11' 'numpy>=1.24' torch 'pytest>=8' 'hypothesis>=6.100'
  } | "$PY" -c '
import shutil, sys
from importlib import metadata
from pip._vendor.packaging.requirements import Requirement
for line in sys.stdin.read().split():
    need = Requirement(line)
    try:
        met = need.specifier.contains(metadata.version(need.name), prereleases=True)
    except metadata.PackageNotFoundError:
        met = need.name in ("cmake", "ninja") and bool(shutil.which(need.name))
    if not met:
        print(line)'
}

step_build() {
  rm -f "$GPU_VENV/built"
  nvidia-smi || say "nvidia-smi can't be run: is there a GPU, and its driver?"
  make_venv || return 1
  local missing
  missing=$(missing_parts) || return 1
  if [ -n "$missing" ] && [ -n "$WHEELS" ]; then
    # shellcheck disable=SC2086  # one argument each
    "$PY" -m pip install --quiet --no-index --no-deps --find-links "$WHEELS" $missing || say "from $WHEELS: failed"
    missing=$(missing_parts) || return 1
  fi
  if [ -n "$missing" ]; then
    say "missing for build and tests: ${missing//$'\n'/, }${WHEELS:+; $WHEELS has none that fit}. Put wheels of these" \
      "into a folder (pip download --no-deps -d FOLDER NAME ...), for this Python, and say WHEELS=FOLDER."
    return 1
  fi
  PATH=$(dirname "$(command -v "$PYTHON")"):$PATH:/usr/local/cuda/bin "$PY" -m pip install --no-build-isolation \
    --no-index --no-deps --force-reinstall --disable-pip-version-check -v -C build-dir=build/gpu \
    -C cmake.define.FASTINC_CUDA=ON -C cmake.define.CMAKE_CUDA_ARCHITECTURES=native . || return 1
  "$PY" -c 'import fastinc as fi; facts = fi.info()["cuda"]; print("CUDA:", facts); exit(not facts["available"])' ||
    return 1
  touch "$GPU_VENV/built"
}

# Tests of the files that run on every device, by pytest's -k; further arguments go before Python.
cuda_tests() {
  local files which=$1
  shift
  files=$(grep -lE '^(from|import) _devices' tests/python/test_*.py) || return 1
  # Warnings of other versions of torch and NumPy than the tests know aren't failures here.
  # shellcheck disable=SC2086
  "$@" "$PY" -m pytest -p no:cacheprovider -o filterwarnings=default -k "$which" $files
}

step_test() {
  cuda_tests cuda env | tee "$GPU_VENV/tests.log" || return 1
  grep -q '^CUDA: [1-9][0-9]* tests ran on a GPU' "$GPU_VENV/tests.log" || { say "no test ran on a GPU"; return 1; }
}

step_bench() {
  # shellcheck disable=SC2086  # several names
  "$PY" -m bench ${BENCH:-gpu} --size "${SIZE:-full}" --out "$OUT"
}

sanitize() {  # tool, its options
  PATH=$PATH:/usr/local/cuda/bin
  command -v compute-sanitizer > /dev/null || { say "not run: there is no compute-sanitizer"; return 77; }
  # Few examples of each test, and none of the long ones; an allocation for each tensor, so that what is written
  # beside one is seen.
  cuda_tests "cuda and not machine" env FASTINC_SHORT_TESTS=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$1" --error-exitcode 9 "${@:2}"
}
step_memcheck() { sanitize memcheck --report-api-errors no; }
step_racecheck() { sanitize racecheck; }

if [ "${1:-}" = --step ]; then
  [ "$2" = build ] || [ -e "$GPU_VENV/built" ] || { say "not built: STEPS=build comes first"; exit 1; }
  "step_$2"
  exit
fi

summary=() failed=0 end=$((SECONDS + ${SECONDS_FOR_ALL:-570}))
mkdir -p "$OUT" "$(dirname "$GPU_VENV")"
: > "$OUT/gpu-check.log"
for step in ${STEPS/sanitize/memcheck racecheck}; do
  declare -F "step_$step" > /dev/null || { say "STEPS: no step is called $step" >&2; exit 2; }
done

run_step() {  # name
  local limit begin=$SECONDS status verdict told log
  limit=$(tr ' ' '\n' <<< "$LIMITS" | sed -n "s/^$1=//p" | tail -n 1)
  [ "$limit" -le $((end - SECONDS)) ] || limit=$((end - SECONDS))
  log=$(mktemp)
  say "" "== $1 (at most $limit s)"
  if [ "$limit" -gt 0 ]; then
    # INT, so that pytest and the sanitizer say what they have so far.
    timeout --signal=INT --kill-after=10 "$limit" bash "$0" --step "$1" 2>&1 < /dev/null | tee "$log"
    status=${PIPESTATUS[0]}
  else
    status=124
  fi
  case $status in
    0) verdict=passed ;;
    77) verdict="not run" ;;
    124 | 137) verdict="FAILED, over its $limit s" ;;
    *) verdict="FAILED ($status)" ;;
  esac
  case $status in 0 | 77) ;; *) failed=1 ;; esac
  told=$(grep -E '^CUDA: |^goals: |^bench: |ERROR SUMMARY|RACECHECK SUMMARY|^=+ .*(passed|failed|error).* =+$|^not |^missing|^no test' "$log" |
    tail -n 3 | tr '\n' ';')
  summary+=("$(printf '%-10s %s, %d s  %s' "$1" "$verdict" $((SECONDS - begin)) "$told")")
  { say "== $1: $verdict"; tail -c "$LOG_BYTES" "$log"; } >> "$OUT/gpu-check.log"
  rm -f "$log"
}

for step in ${STEPS/sanitize/memcheck racecheck}; do run_step "$step"; done
say "" "== summary" "${summary[@]}" | tee "$OUT/gpu-check.txt"
exit $failed

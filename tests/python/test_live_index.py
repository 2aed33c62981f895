"""LiveIndex against a float64 brute force: every metric, awkward rows, exclusions, errors."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastinc as fi
from _brute_force import HIGH, LOW, METRICS, PAD, assert_answer, assert_index, contents, make_table, whole_rows
from _devices import device_fixture, fewer, new_index, new_table
from fastinc import _core

device = device_fixture()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 3, 17, 128, 4095])
def test_exact_matches_brute_force(metric, dim):
    rng = np.random.default_rng(dim)
    n = 700 if dim < 1000 else 40
    ids = rng.permutation(np.arange(-n, n))[:n]
    index = new_index(make_table(ids, rng.standard_normal((n, dim))), metric=metric)
    queries = rng.standard_normal((70, dim)).astype(np.float32)  # more than one block of queries
    for k in (1, 10, n, n + 5):
        assert_index(index, queries[:3] if k >= n else fewer(queries), k)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 3, 17])
def test_exact_ties_go_to_the_smaller_id(metric, dim):
    rng = np.random.default_rng(dim)
    index = new_index(make_table(rng.permutation(600) - 300, whole_rows(rng, 600, dim)), metric=metric)
    assert_index(index, whole_rows(rng, 5, dim), 25, tied=metric != "cosine")


@pytest.mark.parametrize("factory", ["exact", "Flat"])
@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows(metric, factory):
    ids = np.random.default_rng(0).permutation(3000) - 1500
    table = make_table(ids, np.ones((3000, 5)))
    index = new_index(table, factory, metric=metric)
    scores, got = index.search(np.ones((2, 5), dtype=np.float32), 200)
    assert (got == np.arange(-1500, -1300)).all()
    assert len(np.unique(scores)) == 1


@pytest.mark.parametrize("factory", ["exact", "Flat"])
@pytest.mark.parametrize("metric", METRICS)
def test_zero_rows_and_zero_queries(metric, factory):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((50, 6)).astype(np.float32)
    rows[::2] = 0
    queries = np.concatenate([rng.standard_normal((3, 6)), np.zeros((1, 6))]).astype(np.float32)
    index = new_index(make_table(range(50), rows), factory, metric=metric)
    assert_index(index, queries, 60)
    if metric == "cosine":
        scores, ids = index.search(queries[3], 50)
        assert (scores == 0).all()
        assert ids.tolist() == list(range(50))


@pytest.mark.parametrize("factory", ["exact", "Flat", "IVF2,Flat"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18, 1e30, 3e38])
def test_one_row_of_another_size(metric, factory, scale):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((100, 4)).astype(np.float32)
    rows[57] = [scale, -scale, scale, scale]
    index = new_index(make_table(range(100), rows), factory, metric=metric)
    queries = rng.standard_normal((4, 4)).astype(np.float32)
    nprobe = {} if factory != "IVF2,Flat" else {"nprobe": 2}
    for q in (queries, queries * np.float32(1e-20), np.clip(queries * 1e30, -3e38, 3e38).astype(np.float32)):
        scores, ids = index.search(q, 100, **nprobe)
        assert np.isfinite(scores).all()
        for i in range(len(q)):
            assert sorted(ids[i].tolist()) == list(range(100))
            assert_answer(scores[i], ids[i], contents(index.table), q[i], 100, metric)


@pytest.mark.parametrize("factory", ["exact", "Flat", "HNSW8", "IVF4,Flat"])
def test_empty_and_tiny_tables(factory):
    table = new_table(dim=3)
    index = new_index(table, factory, metric="l2")
    scores, ids = index.search(np.ones(3, dtype=np.float32), 4)
    assert ids.tolist() == [-1] * 4
    assert (scores == PAD).all()
    assert len(index) == 0
    table.load([-9], np.ones((1, 3), dtype=np.float32))
    scores, ids, version = index.search(np.ones(3, dtype=np.float32), 2, with_version=True)
    assert (ids.tolist(), scores[0], version) == ([-9, -1], 0.0, 1)
    table.remove([-9])
    assert index.search(np.ones(3, dtype=np.float32), 2)[1].tolist() == [-1, -1]
    empty = index.search(np.empty((0, 3), dtype=np.float32), 5)
    assert empty[0].shape == empty[1].shape == (0, 5)


@pytest.mark.parametrize("factory", ["exact", "Flat"])
def test_any_int64_is_an_id(factory):
    ids = np.array([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH])
    index = new_index(make_table(ids, np.ones((7, 2))), factory)
    assert index.search(np.ones(2, dtype=np.float32), 7)[1].tolist() == ids.tolist()
    got = index.search(np.ones(2, dtype=np.float32), 4, exclude=[LOW, HIGH, -1])[1]
    assert got.tolist() == [LOW + 1, 0, 1, HIGH - 1]


@pytest.mark.parametrize("factory", ["exact", "Flat", "IVF4,Flat"])
@pytest.mark.parametrize("metric", METRICS)
def test_exclude(metric, factory):
    rng = np.random.default_rng(3)
    table = make_table(np.arange(400) - 200, whole_rows(rng, 400, 4))
    index = new_index(table, factory, metric=metric)
    queries = whole_rows(rng, 6, 4)
    nprobe = {"nprobe": 4} if "IVF" in factory else {}
    tied = metric != "cosine" and not nprobe
    best = index.search(queries, 50, **nprobe)[1]
    assert_index(index, queries, 20, excluded=[*best[0].tolist(), 10**9, 10**9], tied=tied, **nprobe)
    lists = [best[0][:0], best[1].tolist(), best[2][::2], [7777], range(-200, 150), set(range(-200, 200))]
    assert_index(index, queries, 20, excluded=[list(x) for x in lists], tied=tied, **nprobe)
    same = index.search(queries, 20, exclude=lists, **nprobe)
    rows = index.search(queries, 20, exclude=[list(map(int, x)) for x in lists], **nprobe)
    assert (same[1] == rows[1]).all()
    matrix = index.search(queries, 20, exclude=best[:, :5].copy(), **nprobe)[1]
    for i in range(6):
        assert not set(matrix[i].tolist()) & set(best[i, :5].tolist())
    assert (index.search(queries, 3, exclude=table.ids(), **nprobe)[1] == -1).all()


def test_same_bytes_for_any_thread_count_and_instruction_set(device):
    if device == "cuda":
        pytest.skip("the CPU's threads and instruction sets")
    rng = np.random.default_rng(4)
    table = make_table(rng.permutation(5000), rng.standard_normal((5000, 33)))
    queries = rng.standard_normal((70, 33)).astype(np.float32)
    before = fi.get_isa(), fi.get_num_threads()
    try:
        for metric in METRICS:
            answers = set()
            for isa in fi.info()["isas"]:
                for threads in (1, 2, 4):
                    fi.set_isa(isa)
                    fi.set_num_threads(threads)
                    scores, ids = new_index(table, metric=metric).search(queries, 37)
                    answers.add(scores.tobytes() + ids.tobytes())
            assert len(answers) == 1
    finally:
        fi.set_isa(before[0])
        fi.set_num_threads(before[1])


@pytest.mark.parametrize("n", [1, 600])
@pytest.mark.parametrize("factory", ["exact", "Flat"])
def test_a_row_all_but_zero_has_no_direction(factory, n):
    rows = np.full((n, 1), 1e-45, dtype=np.float32)
    rows[::7] = -1e-39
    assert_index(new_index(make_table(range(n), rows), factory, metric="cosine"), np.ones((1, 1), np.float32), n)


@settings(max_examples=60)
@given(
    data=st.data(),
    dim=st.sampled_from([1, 2, 33]),
    n=st.integers(0, 40),
    k=st.integers(1, 50),
    metric=st.sampled_from(METRICS),
    factory=st.sampled_from(["exact", "Flat"]),
)
def test_any_floats(data, dim, n, k, metric, factory):
    floats = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -0.0, 1.0])
    rows = data.draw(hnp.arrays(np.float32, (n, dim), elements=floats))
    queries = data.draw(hnp.arrays(np.float32, (2, dim), elements=floats))
    index = new_index(make_table(range(n), rows), factory, metric=metric)
    assert_index(index, queries, k)


def engine_search(
    table, queries, k, metric, exclude_ids=None, exclude_offsets=None, allow_ids=None, allow_offsets=None
):
    arguments = (queries, k, metric, exclude_ids, exclude_offsets, allow_ids, allow_offsets)
    if table.device == "cpu":
        return _core.exact_search(table._core, *arguments)
    return table._core.exact_search(*arguments)


def test_allow_ids_are_scored():
    """The engine's own door: `allow`, shared and per query, with repeats and ids without a row."""
    rng = np.random.default_rng(5)
    table = make_table(range(300), rng.standard_normal((300, 8)))
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    content = contents(table)
    only = np.array([5, 5, 9, 1000, -3, 200, 9])
    scores, ids, version = engine_search(table, queries, 4, "ip", allow_ids=only)
    assert version == table.version
    for i in range(3):
        assert_answer(scores[i], ids[i], {j: content[j] for j in (5, 9, 200)}, queries[i], 4, "ip")
    offsets = np.array([0, 2, 2, 7])
    scores, ids, _ = engine_search(table, queries, 4, "l2", np.array([9]), allow_ids=only, allow_offsets=offsets)
    for i, mine in enumerate([(5,), (), (200,)]):
        assert_answer(scores[i], ids[i], {j: content[j] for j in mine}, queries[i], 4, "l2")
    for wrong in ([0, 2, 7], [1, 2, 3, 7], [0, 3, 2, 7], [0, 2, 2, 8]):
        with pytest.raises(ValueError, match="allow_offsets"):
            engine_search(table, queries, 4, "ip", allow_ids=only, allow_offsets=np.array(wrong, dtype=np.int64))


# --- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["exact", "Flat", "IVF16,Flat"])
@pytest.mark.parametrize(
    ("error", "words", "queries", "arguments"),
    [
        (ValueError, r"queries\[1, 2\] = nan", [[0, 0, 0], [0, 0, np.nan]], {}),
        (ValueError, r"queries\[0, 0\] = -?inf", [[-np.inf, 0, 0]], {}),
        (ValueError, r"queries has shape \(1, 2\); it must be \(any, 3\)", [[0, 0]], {}),
        (ValueError, r"queries has shape \(1, 1, 3\)", [[[0, 0, 0]]], {}),
        (ValueError, "k = 0 must be at least 1", [[0, 0, 0]], {"k": 0}),
        (ValueError, "k = -3 must be at least 1", [[0, 0, 0]], {"k": -3}),
        (TypeError, "k = 2.5 must be a whole number", [[0, 0, 0]], {"k": 2.5}),
        (TypeError, "k = True must be a whole number", [[0, 0, 0]], {"k": True}),
        (TypeError, "exclude has dtype float64", [[0, 0, 0]], {"exclude": [1.5]}),
        (TypeError, "exclude has dtype", [[0, 0, 0]], {"exclude": [2**63]}),
        (TypeError, "exclude must be ids", [[0, 0, 0]], {"exclude": "12"}),
        (ValueError, "exclude has 3 lists, but there are 1 queries", [[0, 0, 0]], {"exclude": [[1], [2], []]}),
        (ValueError, r"exclude\[0\] has shape \(1, 1\)", [[0, 0, 0]], {"exclude": [[[1]]]}),
        (ValueError, "efSearch = 5", [[0, 0, 0]], {"efSearch": 5}),
        (ValueError, "nprobe = 0 must be at least 1", [[0, 0, 0]], {"nprobe": 0}),
    ],
)
def test_search_errors_name_the_argument(factory, error, words, queries, arguments):
    table = make_table(range(700), np.random.default_rng(11).standard_normal((700, 3)))
    index = new_index(table, factory)
    with pytest.raises(error, match=words):
        index.search(np.array(queries, dtype=np.float32), **arguments)


def test_queries_of_the_wrong_kind():
    index = new_index(make_table([1], np.ones((1, 3))))
    with pytest.raises(TypeError, match="queries has dtype float64; it must be float32"):
        index.search(np.zeros((1, 3)))
    with pytest.raises(TypeError, match="queries must be an array"):
        index.search([[0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="queries is not contiguous"):
        index.search(np.zeros((3, 2), dtype=np.float32).T)
    with pytest.raises(ValueError, match="queries is not contiguous"):
        index.search(np.zeros(6, dtype=np.float32)[::2])


def test_torch_queries():
    torch = pytest.importorskip("torch")
    index = new_index(make_table([1, 2], np.eye(2)))
    queries = torch.tensor([[1.0, 3.0], [3.0, 1.0]])
    assert index.search(queries, 1)[1].tolist() == [[2], [1]]
    assert index.search(queries[0], 1)[1].tolist() == [2]
    with pytest.raises(ValueError, match="queries can't be read in place"):
        index.search(queries.requires_grad_())


def test_constructor_errors():
    table = make_table(range(10), np.ones((10, 6)))
    for words, arguments in [
        ("factory = 'nope' is neither 'exact' nor", {"factory": "nope"}),
        ("factory = 'PQ4' .*dim = 6.*multiple of", {"factory": "PQ4"}),
        ("factory = 'HNSW0' .*0 is not a size", {"factory": "HNSW0"}),
        ("factory = 'NSG4' .*with NSG 5", {"factory": "NSG4"}),
        ("factory = 'HNSW8_PQ3x4': FAISS has no such index for metric 'ip'", {"factory": "HNSW8_PQ3x4"}),
        ("metric = 'dot' must be", {"metric": "dot"}),
        ("device = 'tpu'", {"device": "tpu"}),
        ("rebuild_rows = -1", {"rebuild_rows": -1}),
        ("rebuild_share = nan", {"rebuild_share": float("nan")}),
    ]:
        with pytest.raises(ValueError, match=words):
            new_index(table, **arguments)
    with pytest.raises(TypeError, match="table must be an EmbeddingTable, not dict"):
        new_index({})
    with pytest.raises(TypeError, match="factory must be"):
        new_index(table, 5)
    with pytest.raises(ValueError, match="nprobe = 4: an index 'exact' has no such"):
        new_index(table).search(np.ones(6, dtype=np.float32), nprobe=4)


def test_faiss_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    table = make_table(range(10), np.ones((10, 6)))
    with pytest.raises(ImportError, match=r"LiveIndex\(table, 'Flat'\) needs faiss.*fastinc\[faiss\]"):
        new_index(table, "Flat")
    assert new_index(table).search(np.ones(6, dtype=np.float32), 1)[1].tolist() == [0]


@pytest.mark.parametrize("column", [0, 5])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_numbers_have_no_place(metric, column):
    rng = np.random.default_rng(27)
    rows = -np.abs(rng.standard_normal((3000, 16))).astype(np.float32)
    table = new_table(16, fi.SGD(lr=3e38), init=fi.init.Zeros())
    table.load(range(3000), rows)
    grad = np.zeros((1, 16), dtype=np.float32)
    grad[0, column] = 10
    for sign in (1, -1, -1):
        table.update([2999], sign * grad)
    assert np.isnan(table.lookup([2999])[0, column])
    index = new_index(table, metric=metric)
    for k in (3, 1500, 3000):
        assert 2999 not in index.search(np.ones(16, dtype=np.float32), k)[1]

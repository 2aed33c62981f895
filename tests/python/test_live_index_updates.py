"""LiveIndex while its table changes: FAISS bases, rebuilds, any sequence of writes, threads."""

import threading

import faiss
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import fastinc as fi
from _brute_force import (
    HIGH,
    LOW,
    METRICS,
    assert_answer,
    assert_index,
    contents,
    eventually,
    make_table,
    whole_rows,
    with_metrics,
)

FACTORIES = ["exact", "Flat", "IVF16,Flat", "HNSW16", "IVF16,SQ8", "PQ4x4", "OPQ2_8,IVF4,PQ4x4", "SQ8,RFlat"]


@pytest.mark.parametrize("factory", ["exact", "Flat", "HNSW16"])
def test_an_update_is_in_the_next_answer(factory):
    rng = np.random.default_rng(6)
    table = make_table(range(1500), rng.standard_normal((1500, 8)))
    index = fi.LiveIndex(table, factory)
    query = np.ones(8, dtype=np.float32)
    for step in range(30):
        target = np.array([step * 40])
        table.update(target, np.full((1, 8), -100.0 - step, dtype=np.float32))
        scores, ids, version = index.search(query, 3, with_version=True)
        assert ids[0] == target[0]
        assert scores[0] == pytest.approx(float(table.lookup(target)[0].sum()), rel=1e-5)
        assert version == table.version
        table.remove(target)
        assert target[0] not in index.search(query, 1500)[1]


@pytest.mark.parametrize(("factory", "metric"), with_metrics(FACTORIES))
def test_changed_rows_are_exact_and_removed_ones_gone(factory, metric):
    rng = np.random.default_rng(7)
    dim = 8
    n = 10_000 if factory.startswith("OPQ") else 1500
    table = make_table(rng.permutation(2 * n)[:n] - n, rng.standard_normal((n, dim)))
    index = fi.LiveIndex(table, factory, metric=metric)
    if factory != "exact":
        assert index.stats()["base_rows"] == n, index.stats()
    base_version = table.version
    for _ in range(4):
        ids = table.ids()
        table.update(rng.choice(ids, 30, replace=False), rng.standard_normal((30, dim)).astype(np.float32))
        table.remove(rng.choice(ids, 30))
        table.load(rng.integers(5 * n, 6 * n, 20), rng.standard_normal((20, dim)).astype(np.float32))
        content = contents(table)
        changed = set(table.changes(since=base_version).updated.tolist())
        queries = rng.standard_normal((5, dim)).astype(np.float32)
        scores, ids = index.search(queries, 40)
        for i, query in enumerate(queries):
            rows = {j: content[j] for j in ids[i].tolist() if j in content}
            assert len(rows) == 40, "a removed row, or none"
            assert_answer(scores[i], ids[i], rows, query, 40, metric)
            # every changed row that belongs to the answer is in it
            fresh = {j: content[j] for j in changed | set(rows)}
            assert_answer(scores[i], ids[i], fresh, query, 40, metric)
        if factory == "Flat":
            exact = fi.LiveIndex(table, metric=metric).search(queries, 40)
            assert (exact[0] == scores).all()
            assert (exact[1] == ids).all()
    if factory != "exact":
        stats = index.stats()
        assert stats["base_version"] == base_version
        assert stats["fresh_rows"] == len(changed)
        assert stats["masked_rows"] >= stats["fresh_rows"] - 80


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_the_base_is_asked_again_when_its_best_rows_are_gone(factory, metric):
    rng = np.random.default_rng(13)
    table = make_table(range(5000), rng.standard_normal((5000, 6)))
    index = fi.LiveIndex(table, factory, metric=metric)
    nprobe = {"nprobe": 16} if "IVF" in factory else {}
    queries = rng.standard_normal((2, 6)).astype(np.float32)
    best = index.search(queries, 300, **nprobe)[1]
    table.remove(best[0, :150])
    table.load(best[0, 150:], np.zeros((150, 6), dtype=np.float32))
    assert_index(index, queries, 10, **nprobe)
    assert_index(index, queries, 10, excluded=[[], best[1].tolist()], **nprobe)
    assert index.stats()["rebuilds"] == 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [900, 4000])
def test_flat_resolves_ties_as_exact_does(metric, n):
    rng = np.random.default_rng(14)
    table = make_table(rng.permutation(n) - n // 2, whole_rows(rng, n, 2))
    index, exact = fi.LiveIndex(table, "Flat", metric=metric), fi.LiveIndex(table, metric=metric)
    queries = whole_rows(rng, 40, 2)  # enough queries and k for FAISS to sum and select in other ways
    for k in (1, 10, 150):
        for got, wanted in zip(index.search(queries, k), exact.search(queries, k), strict=True):
            assert (got == wanted).all()


def test_recall_is_the_base_index_s():
    rng = np.random.default_rng(8)
    table = make_table(range(4000), rng.standard_normal((4000, 16)))
    queries = rng.standard_normal((50, 16)).astype(np.float32)
    truth = fi.LiveIndex(table).search(queries, 10)[1]

    def recall(index, **parameters):
        got = index.search(queries, 10, **parameters)[1]
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(got.tolist(), truth.tolist(), strict=True)])

    ivf, hnsw = fi.LiveIndex(table, "IVF32,Flat"), fi.LiveIndex(table, "HNSW16")
    assert recall(ivf, nprobe=1) < recall(ivf, nprobe=8) < recall(ivf, nprobe=32) == 1.0
    assert recall(hnsw, efSearch=16) < recall(hnsw, efSearch=500)
    assert recall(fi.LiveIndex(table, "PCA8,IVF32,Flat"), nprobe=32) > 0.3
    assert recall(fi.LiveIndex(table, "IVF32_HNSW8,Flat"), nprobe=32, efSearch=64) == 1.0
    assert recall(fi.LiveIndex(table, "IVF32,SQ8,RFlat"), nprobe=32) == 1.0
    assert recall(fi.LiveIndex(table, "IDMap,Flat")) == 1.0


def test_what_no_edge_of_a_graph_leads_to_is_found():
    """FAISS's graphs by inner product leave rows out where a few are far longer than the rest."""
    rows = np.stack([np.arange(1, 401), np.zeros(400)], axis=1).astype(np.float32)
    query = np.array([1, 0], dtype=np.float32)
    alone = faiss.index_factory(2, "HNSW8", faiss.METRIC_INNER_PRODUCT)
    alone.add(rows)
    assert (alone.search(query[np.newaxis], 200)[1] < 0).any()
    index = fi.LiveIndex(make_table(range(400), rows), "HNSW8")
    assert index.search(query, 200)[1].tolist() == list(range(399, 199, -1))
    assert index.search(query, 500)[1].tolist() == [*range(399, -1, -1)] + [-1] * 100


def test_what_the_base_names_is_asked_for_once():
    """Where the best rows are those that are written, k rows are left of far more, and searches come to know."""
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((4000, 16)).astype(np.float32)
    rows[:200] *= 5.0  # popular ones
    table = make_table(range(4000), rows)
    index = fi.LiveIndex(table, "IVF32,Flat", background=False)
    table.load(np.arange(160), -rows[:160])
    index.fold()
    asked = []
    base = index._base
    candidates = type(base).candidates

    def counted(self, queries, ask, *arguments, **named):
        asked.append(ask)
        return candidates(self, queries, ask, *arguments, **named)

    queries = rng.standard_normal((100, 16)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(base), "candidates", counted)
        for query in queries:
            index.search(query, 50, nprobe=32)
    assert len(asked) < 130  # not twice for each
    exact = fi.LiveIndex(table).search(queries, 50)
    for got, wanted in zip(index.search(queries, 50, nprobe=32), exact, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("newer", [False, True])
def test_a_table_set_to_another_state(newer):
    """Whatever its version: those of one state say nothing of another's rows."""
    other = make_table(range(50), np.ones((50, 2)))
    for _ in range(20 if newer else 0):
        other.load([0], np.ones((1, 2), dtype=np.float32))
    table = make_table(range(50), np.full((50, 2), 9.0))
    for _ in range(5):
        table.load(range(10), np.full((10, 2), 9.0, dtype=np.float32))
    index = fi.LiveIndex(table, "Flat")
    table._core.import_state(other.__getstate__()["state"])
    scores, ids, version = index.search(np.ones(2, dtype=np.float32), 3, with_version=True)
    assert (scores.tolist(), ids.tolist(), version) == ([2.0] * 3, [0, 1, 2], other.version)
    index.search(np.ones(2, dtype=np.float32))
    eventually(lambda: index.stats()["base_version"] == other.version)


IVF_FACTORIES = [
    "IVF16,Flat",
    "IVF16,SQ8",
    "OPQ4_8,IVF16,PQ4x4",
    "IVF16,SQ8,RFlat",
    "IVF16_HNSW8,Flat",
    "PCA6,IVF16,Flat,RFlat",
    "IDMap,PCA8,IVF16,Flat",
]


@pytest.mark.parametrize(("factory", "metric"), with_metrics(IVF_FACTORIES))
def test_folded_rows_are_found_in_the_lists_that_are_looked_at(metric, factory):
    rng = np.random.default_rng(15)
    n = 10_000 if "OPQ" in factory else 2000
    table = make_table(range(n), rng.standard_normal((n, 8)))
    index = fi.LiveIndex(table, factory, metric=metric, background=False)
    content = contents(table)
    for round in range(3):
        moved = rng.choice(n, 300, replace=False)
        table.load(moved, rng.standard_normal((300, 8)).astype(np.float32))
        table.remove(rng.choice(n, 20))
        table.load(np.arange(9000, 9050) * 3 + n + round, rng.standard_normal((50, 8)).astype(np.float32))
        assert index.fold() >= 300
        table.load(moved[:30], rng.standard_normal((30, 8)).astype(np.float32))  # folded, and changed again
        table.remove(moved[30:40])
        content = contents(table)
        queries = rng.standard_normal((4, 8)).astype(np.float32)
        if not any(lossy in factory for lossy in ("PQ", "SQ", "PCA6")):
            assert_index(index, queries, 40, nprobe=16)
        # with all lists, every changed row that belongs to the answer is in it
        changed = set(table.changes(since=1).updated.tolist())
        scores, ids = index.search(queries, 40, nprobe=16)
        for i, query in enumerate(queries):
            assert len(set(ids[i].tolist())) == 40
            rows = {j: content[j] for j in changed | set(ids[i].tolist())}
            assert_answer(scores[i], ids[i], rows, query, 40, metric)
        # with one list, a row that is a query's own is found, and scores are the rows'
        own = list(changed)[:20]
        own_rows = np.stack([content[j] for j in own]).astype(np.float32)
        scores, ids = index.search(own_rows, 5, nprobe=1)
        for i, row in enumerate(own_rows):
            assert_answer(scores[i], ids[i], {j: content[j] for j in ids[i].tolist() if j in content}, row, 5, metric)
        if metric != "ip" and "HNSW" not in factory:
            assert (ids[:, 0] == own).all()
    assert index.stats()["folds"] == 3


def test_lists_of_lists():
    """A quantizer that doesn't look at all centroids."""
    rng = np.random.default_rng(28)
    table = make_table(range(2000), rng.standard_normal((2000, 8)))
    index = fi.LiveIndex(table, "IVF16(IVF2,Flat),Flat", background=False)
    assert index.stats()["base_rows"] == 2000
    table.load(range(300), rng.standard_normal((300, 8)).astype(np.float32))
    assert index.fold() == 300
    scores, ids = index.search(rng.standard_normal((3, 8)).astype(np.float32), 5, nprobe=16)
    assert (ids >= 0).all()
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("factory", ["exact", "Flat", "IVF16,Flat"])
@pytest.mark.parametrize("metric", METRICS)
def test_allow(metric, factory):
    rng = np.random.default_rng(18)
    table = make_table(np.arange(3000) - 1500, rng.standard_normal((3000, 6)))
    index = fi.LiveIndex(table, factory, metric=metric, background=False)
    nprobe = {"nprobe": 16} if "IVF" in factory else {}
    table.load(range(100), rng.standard_normal((100, 6)).astype(np.float32))
    queries = rng.standard_normal((4, 6)).astype(np.float32)
    content = contents(table)
    for size in (0, 1, 30, 400, 2900):
        shared = rng.choice(np.arange(-1500, 1500), size, replace=False)
        own = [rng.choice(np.arange(-1500, 1500), n, replace=False).tolist() for n in (0, 5, size, size // 2)]
        for allow in (shared, [*shared.tolist(), 10**9, *shared[:3].tolist()], own):
            excluded = rng.choice(np.arange(-1500, 1500), 300)
            scores, ids = index.search(queries, 20, allow=allow, exclude=excluded, **nprobe)
            for i, query in enumerate(queries):
                mine = set(own[i] if allow is own else shared.tolist())
                rows = {j: row for j, row in content.items() if j in mine}
                assert_answer(scores[i], ids[i], rows, query, 20, metric, excluded.tolist())
    with pytest.raises(ValueError, match="allow has 3 lists, but there are 4 queries"):
        index.search(queries, 5, allow=[[1], [2], [3]])
    with pytest.raises(TypeError, match="allow has dtype float64"):
        index.search(queries, 5, allow=[0.5])


def test_lags_are_counted():
    table = make_table(range(100), np.ones((100, 2)))
    for factory in ("exact", "Flat"):
        index = fi.LiveIndex(table, factory)
        for _ in range(7):
            index.search(np.ones(2, dtype=np.float32))
        assert index.stats()["lags"] == {"0": 7}


class LiveIndexMachine(RuleBasedStateMachine):
    """Any sequence of writes: each search must equal brute force over a dict."""

    factory = "exact"

    @initialize(
        dim=st.sampled_from([1, 3]),
        metric=st.sampled_from(METRICS),
        rebuild_rows=st.sampled_from([0, 3, 1000]),
        rebuild_share=st.sampled_from([0.0, 0.5]),
    )
    def start(self, dim, metric, rebuild_rows, rebuild_share):
        self.dim, self.metric, self.content = dim, metric, {}
        self.table = fi.EmbeddingTable(dim=dim, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
        self.index = fi.LiveIndex(
            self.table, self.factory, metric=metric, rebuild_rows=rebuild_rows, rebuild_share=rebuild_share
        )

    ids = st.lists(st.integers(-4, 12) | st.sampled_from([LOW, HIGH]), min_size=1, max_size=8)

    @rule(ids=ids, seed=st.integers(0, 99))
    def load(self, ids, seed):
        rows = whole_rows(np.random.default_rng(seed), len(ids), self.dim)
        self.table.load(ids, rows)
        self.content.update(zip(ids, rows, strict=True))

    @rule(ids=ids, seed=st.integers(0, 99))
    def update(self, ids, seed):
        grads = whole_rows(np.random.default_rng(seed), len(ids), self.dim)
        self.table.update(ids, grads)
        for i, grad in zip(ids, grads, strict=True):
            self.content[i] = self.content.get(i, np.zeros(self.dim, dtype=np.float32)) - grad

    @rule(ids=ids)
    def remove(self, ids):
        self.table.remove(ids)
        for i in ids:
            self.content.pop(i, None)

    @rule()
    def compact(self):
        self.index.compact()

    @rule(
        seed=st.integers(0, 99),
        k=st.integers(1, 12),
        exclude=st.none() | ids | st.lists(ids, min_size=2, max_size=2),
    )
    def search(self, seed, k, exclude):
        queries = whole_rows(np.random.default_rng(seed), 2, self.dim)
        scores, ids, version = self.index.search(queries, k, exclude=exclude, with_version=True)
        assert version == self.table.version
        for i in range(2):
            nested = exclude is not None and isinstance(exclude[0], list)
            mine = () if exclude is None else (exclude[i] if nested else exclude)
            tied = self.metric != "cosine"
            assert_answer(scores[i], ids[i], self.content, queries[i], k, self.metric, mine, tied)


class FlatMachine(LiveIndexMachine):
    factory = "Flat"


SMALL = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestExactSequences = LiveIndexMachine.TestCase
TestExactSequences.settings = SMALL
TestFlatSequences = FlatMachine.TestCase
TestFlatSequences.settings = SMALL


# --- threads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["exact", "Flat", "HNSW8"])
def test_searches_while_rows_change(factory):
    """Every row's value at every version is known beforehand: an answer may use those current during the call."""
    rng = np.random.default_rng(12)
    n, versions = 400, 250
    states = [np.arange(1, n + 1, dtype=np.int64) * 1000]  # by version - 1: each id's value, 0 where it has no row
    plan = []
    for version in range(2, versions + 1):
        chosen = rng.choice(n, 25, replace=False)
        state = states[-1].copy()
        removes = version % 3 == 0 and (state[chosen] > 0).any()
        state[chosen] = 0 if removes else 1000 * rng.integers(1, n, 25) + version
        states.append(state)
        plan.append((removes, chosen))
    table = make_table(range(n), np.stack([states[0], np.zeros(n)], axis=1))
    index = fi.LiveIndex(table, factory, rebuild_rows=60)
    query = np.array([[1, 0]], dtype=np.float32)
    done, wrong = threading.Event(), []
    searched = [0, 0, 0]

    def search(slot):
        try:
            while True:
                last = done.is_set()
                before = table.version
                scores, ids, version = index.search(query, 15, with_version=True)
                assert before <= version <= table.version
                current = np.stack(states[before - 1 : table.version + 1])  # the last may be of a batch at work
                assert (ids >= 0).all()
                assert (current[:, ids[0]] == scores[0]).any(axis=0).all(), "removed, or another version's row"
                assert (np.diff(scores[0]) <= 0).all()
                if factory != "HNSW8":
                    surely_better = current.min(axis=0) > scores[0, -1]
                    assert set(np.flatnonzero(surely_better)) <= set(ids[0].tolist())
                searched[slot] += 1
                if last:
                    return
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=search, args=(slot,)) for slot in range(3)]
    for thread in threads:
        thread.start()
    try:
        for (removes, chosen), state in zip(plan, states[1:], strict=True):
            if removes:
                table.remove(chosen)
            else:
                rows = np.stack([state[chosen], np.zeros(25)], axis=1).astype(np.float32)
                table.load(chosen, rows)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[0]
    assert table.version == versions
    assert min(searched) > 0
    if factory != "exact":
        index.search(query)
        eventually(lambda: index.stats()["rebuilds"] > 1)

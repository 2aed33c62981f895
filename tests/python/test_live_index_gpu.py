"""LiveIndex with its base on a GPU: what a CPU can tell, by a stand-in with the traps of FAISS's GPU indexes."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest

import fastinc as fi
from _brute_force import assert_answer, assert_index, contents, make_table, with_metrics


class StandInIndex:
    """An index "on the GPU": at most 2,048 results, no selectors, one thread at a time."""

    def __init__(self, index):
        self.index = faiss.clone_index(index)
        self.busy = threading.Lock()
        self.calls = 0

    def search(self, queries, k, params=None):
        assert self.busy.acquire(blocking=False), "two threads at a time"
        try:
            self.calls += 1
            assert k <= 2048, "more than the GPU selects"
            assert params is None or params.sel is None, "a selector, which the GPU ignores"
            return self.index.search(queries, k, params=params)
        finally:
            self.busy.release()


class StandInResources:
    def setTempMemory(self, size):  # noqa: N802
        assert size > 0


@pytest.fixture
def gpu(monkeypatch):
    made = []

    def to_gpu(resources, device, index):
        assert isinstance(resources, StandInResources)
        assert device == 0
        made.append(StandInIndex(index))
        return made[-1]

    monkeypatch.setattr(faiss, "StandardGpuResources", StandInResources, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    return made


@pytest.mark.parametrize(("factory", "metric"), with_metrics(["Flat", "IVF16,Flat", "IVF16,SQ8", "OPQ4_8,IVF16,PQ4x4"]))
def test_fresh_rows_and_removed_ones_beside_a_base_on_the_gpu(gpu, factory, metric):
    rng = np.random.default_rng(20)
    n = 10_000 if "OPQ" in factory else 2000
    table = make_table(range(n), rng.standard_normal((n, 8)))
    index = fi.LiveIndex(table, factory, metric=metric, device="cuda", background=False)
    assert index.device == "cuda"
    nprobe = {"nprobe": 16} if "IVF" in factory else {}
    queries = rng.standard_normal((4, 8)).astype(np.float32)
    for _ in range(2):
        table.load(rng.choice(n, 60, replace=False), rng.standard_normal((60, 8)).astype(np.float32))
        table.remove(rng.choice(n, 60))
        for folds in (False, True):
            if folds:
                assert index.fold() > 0
            content = contents(table)
            changed = set(table.changes(since=1).updated.tolist())
            scores, ids = index.search(queries, 40, **nprobe)
            for i, query in enumerate(queries):
                rows = {j: content[j] for j in changed | set(ids[i].tolist())}
                assert_answer(scores[i], ids[i], rows, query, 40, metric)
            if factory.endswith("Flat"):
                assert_index(index, queries, 40, **nprobe)
    assert gpu[0].calls > 0


def test_more_than_the_gpu_selects_is_scanned_here(gpu):
    rng = np.random.default_rng(21)
    table = make_table(range(12_000), rng.standard_normal((12_000, 4)))
    index = fi.LiveIndex(table, "Flat", device="cuda", background=False)
    queries = rng.standard_normal((2, 4)).astype(np.float32)
    assert_index(index, queries, 2500)
    assert gpu[0].calls == 0
    best = index.search(queries, 1500)[1]
    assert gpu[0].calls == 1
    table.remove(best[0])  # as good as none of what the GPU gives is left
    assert_index(index, queries, 1200)


def test_threads_take_turns_at_the_gpu(gpu):
    rng = np.random.default_rng(22)
    table = make_table(range(3000), rng.standard_normal((3000, 8)))
    index = fi.LiveIndex(table, "IVF16,Flat", device="cuda")
    queries = rng.standard_normal((40, 8)).astype(np.float32)
    expected = index.search(queries, 10, nprobe=16)[1].tolist()
    wrong = []

    def search():
        found = [index.search(query, 10, nprobe=16)[1].tolist() for query in queries]
        wrong.extend(i for i in range(40) if found[i] != expected[i])

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert gpu[0].calls == 161


def test_why_there_is_no_gpu():
    table = make_table(range(100), np.ones((100, 4)))
    with pytest.raises(ValueError, match=r"^device = 'cuda': an index 'exact' is where its table is, on 'cpu'$"):
        fi.LiveIndex(table, "exact", device="cuda")
    with pytest.raises(ValueError, match=r"device = 'cuda': .*(faiss-gpu|no GPU)"):
        fi.LiveIndex(table, "Flat", device="cuda")


def test_indexes_that_faiss_has_for_the_cpu_alone(gpu):
    table = make_table(range(100), np.ones((100, 4)))
    for factory in ("HNSW8", "IVF4_HNSW8,Flat", "SQ8", "LSH"):
        with pytest.raises(ValueError, match=f"factory = '{factory}': FAISS has no Index.* on a GPU"):
            fi.LiveIndex(table, factory, metric="l2", device="cuda")
    assert gpu == []

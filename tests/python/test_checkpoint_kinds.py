"""Checkpoints of indices, of models that others write to, and int8 rows for serving."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastinc as fi
from _logs import learn, new_table, state_of
from fastinc.checkpoint import _arrays, _indices


@pytest.mark.parametrize("factory", ["exact", "IVF4,Flat"])
def test_an_index_comes_back_over_its_table(tmp_path, factory):
    pytest.importorskip("faiss")
    table = new_table(dim=8)
    learn(table, range(300))
    index = fi.LiveIndex(table, factory, metric="l2", rebuild_rows=77, fold_rows=5, background=False)
    fi.checkpoint.save(index, tmp_path / "c", position=3)
    again, position = fi.checkpoint.load(tmp_path / "c")
    assert position == 3
    assert state_of(again.table) == state_of(table)
    assert _indices.describe(again) == _indices.describe(index)
    queries = table.lookup(np.arange(20))
    for mine, theirs in zip(index.search(queries, 5, nprobe=None), again.search(queries, 5), strict=True):
        assert mine.tobytes() == theirs.tobytes()
    with fi.checkpoint.Log(tmp_path / "log") as log:
        log.append(index)
        learn(table, range(50), 1)
        assert log.append(index).kind == "increment"
        restored, _ = log.restore()
    assert state_of(restored.table) == state_of(table)
    with fi.replica.follow(tmp_path / "log") as replica:
        assert replica.search(table.lookup([0])[0], 1)[1].tolist() == [0]
        assert replica.lookup([0]).tobytes() == table.lookup([0]).tobytes()


def test_a_table_saved_while_others_write_is_of_one_version(tmp_path):
    table = fi.EmbeddingTable(dim=4)
    ids = np.arange(2000)
    table.load(ids, np.zeros((2000, 4), dtype=np.float32))
    done = threading.Event()

    def write():
        step = 0
        while not done.is_set():
            step += 1
            table.load(ids, np.full((2000, 4), step, dtype=np.float32))

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for _ in range(15):
            fi.checkpoint.save(table, tmp_path)
            saved, _ = fi.checkpoint.load(tmp_path)
            rows = saved.lookup(ids)
            assert (rows == rows[0, 0]).all()
            seen.add(float(rows[0, 0]))
    finally:
        done.set()
        writer.join()
    assert len(seen) > 1


def test_a_model_saved_while_another_thread_learns_is_one_that_learned_so_many_events(tmp_path):
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 50, 6400), rng.integers(0, 80, 6400)

    def make():
        return fi.Recommender(dim=6, negatives=8, batch_size=16, long_window=5, user="both")

    def learn_more(model, begin, end):
        events = np.arange(begin, end) % 6400
        model.partial_fit(users[events], items[events])

    model, saved, done = make(), [], threading.Event()

    def learn_on():
        begin = 0
        while not done.is_set():
            learn_more(model, begin, begin + 64)
            begin += 64

    writer = threading.Thread(target=learn_on)
    writer.start()
    try:
        with fi.checkpoint.Log(tmp_path / "log", compact=None) as log:
            while len({each.n_events for each in saved}) < 6:
                fi.checkpoint.save(model, tmp_path / "c")
                log.append(model)
                saved += [fi.checkpoint.load(tmp_path / "c")[0], log.restore()[0]]
    finally:
        done.set()
        writer.join()
    reference, learned = make(), 0
    for each in saved:
        assert each.n_events >= learned
        learn_more(reference, learned, each.n_events)
        learned = each.n_events
        assert whole(each) == whole(reference)


def whole(model):
    change = fi.checkpoint._models.export(model, None)
    arrays = {name: array.tobytes() for name, array in change.arrays.items()}
    return json.dumps(change.parameters, sort_keys=True), arrays


def test_int8_rows_are_those_of_the_table(tmp_path):
    table = new_table(dim=64)
    learn(table, range(500))
    table.remove([3])
    path = tmp_path / "rows.npz"
    size = fi.checkpoint.export_int8(table, path)
    assert size == path.stat().st_size
    with np.load(path) as file:  # which refuses pickles
        ids, codes = file["ids"], file["codes"]
    assert ids.dtype == np.int32
    assert 3 not in ids
    assert codes.tobytes() == table.lookup_quantized(ids.astype(np.int64)).tobytes()
    torch = pytest.importorskip("torch")
    bags = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        torch.from_numpy(codes), torch.tensor([5]), torch.tensor([0])
    )
    assert np.allclose(bags.numpy()[0], table.lookup([int(ids[5])])[0], atol=0.01)


@pytest.mark.parametrize("optimizer", [fi.SGD(), fi.RowWiseAdagrad(), fi.Adagrad(), fi.Adam()])
def test_int8_rows_are_much_smaller(tmp_path, optimizer):
    table = fi.EmbeddingTable(64, optimizer)
    learn(table, range(5000))
    fi.checkpoint.save(table, tmp_path / "c")
    whole = sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    assert whole / fi.checkpoint.export_int8(table, tmp_path / "rows.npz") >= 3.5


def test_large_ids_are_kept(tmp_path):
    table = new_table()
    learn(table, [2**40, -5])
    fi.checkpoint.export_int8(table, tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as file:
        assert sorted(file["ids"].tolist()) == [-5, 2**40]


def test_int8_of_a_recommender_scores_without_fastinc(tmp_path):
    names = np.array(["b", "ü", "c", "d"], dtype=object)
    model = fi.Recommender(
        dim=4, negatives=2, long_window=0, context_lr_scale=1.0, tie_weight=0.0, situations=False, hidden=0
    )
    rng = np.random.default_rng(1)
    for _ in range(40):
        model.partial_fit(rng.integers(0, 5, 8), names[rng.integers(0, 4, 8)])
    fi.checkpoint.export_int8(model, tmp_path / "model.npz")
    script = """
import json, sys, numpy as np
with np.load(sys.argv[1]) as file:
    params = json.loads(str(file["params"]))
    ends = [0, *file["item_ids.ends"]]
    items = [bytes(file["item_ids.utf8"][a:b]).decode() for a, b in zip(ends, ends[1:])]
    def rows(name):
        codes = file[name + ".codes"]
        scale, bias = np.ascontiguousarray(codes[:, -8:]).view(np.float32).T[..., None]
        return codes[:, :-8] * scale + bias
    v, x = rows("items"), rows("contexts")
history = [items.index(name) for name in ("c", "b")]  # the most recent first
weights = np.arange(1, 3) ** -params["recency_exponent"]
q = weights @ x[history]
scores = v[:, :-1] @ q + v[:, -1]
print(items[int(np.argmax(scores))], *np.round(scores, 3))
assert "fastinc" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.npz")], stdout=subprocess.PIPE, text=True, check=True
    )
    best, *scores = done.stdout.split()
    frozen, _ = roundtrip(model, tmp_path)
    frozen.frozen = True
    frozen.partial_fit([99, 99], ["b", "c"])
    expected, found = frozen.recommend(99, 4, exclude_seen=False)
    by_item = dict(zip(expected, found, strict=True))
    assert np.allclose([by_item[name] for name in model._item_ids.ids()], [float(score) for score in scores], atol=0.05)
    assert by_item[best] >= found[0] - 0.05


def roundtrip(model, tmp_path):
    fi.checkpoint.save(model, tmp_path / "again")
    return fi.checkpoint.load(tmp_path / "again")


def test_what_isnt_a_model_is_refused(tmp_path):
    with pytest.raises(TypeError, match="is not an EmbeddingTable, a LiveIndex or a Recommender"):
        fi.checkpoint.export_int8([1, 2], tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path = '.*none/x\.npz': .*none is not a folder"):
        fi.checkpoint.export_int8(fi.EmbeddingTable(2), tmp_path / "none" / "x.npz")
    (tmp_path / "rows.npz").write_text("mine")
    os.symlink(tmp_path / "rows.npz", tmp_path / "link.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("link.npz", "pipe.npz"):
        with pytest.raises(ValueError, match=rf"{name}' is not a regular file: it is not replaced"):
            fi.checkpoint.export_int8(fi.EmbeddingTable(2), tmp_path / name)
    assert (tmp_path / "rows.npz").read_text() == "mine"
    fi.checkpoint.export_int8(fi.EmbeddingTable(2), tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError, match=r"x\.npz holds no checkpoint: it is a file, not a folder"):
        fi.checkpoint.load(tmp_path / "x.npz")


def test_a_pipe_named_like_a_manifest_doesnt_hang(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    for read in (fi.checkpoint.load, lambda path: fi.checkpoint.Log(path).restore(), fi.replica.follow):
        with pytest.raises(ValueError, match=r"is not a regular file|holds a checkpoint"):
            read(tmp_path)
    fi.checkpoint.save(fi.EmbeddingTable(2), tmp_path)
    assert len(fi.checkpoint.load(tmp_path)[0]) == 0


@pytest.mark.parametrize(("path", "error"), [("", ValueError), (b"model", TypeError), (5, TypeError)])
def test_paths_are_checked(path, error):
    table = fi.EmbeddingTable(2)
    for call in (
        lambda: fi.checkpoint.save(table, path),
        lambda: fi.checkpoint.load(path),
        lambda: fi.checkpoint.Log(path),
        lambda: fi.checkpoint.export_int8(table, path),
        lambda: fi.replica.follow(path),
    ):
        with pytest.raises(error, match="path = "):
            call()


@pytest.fixture
def two_threads():
    before = fi.get_num_threads()
    fi.set_num_threads(2)
    yield
    fi.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("started", [0, 1])
def test_where_no_thread_is_to_be_had_the_caller_does_its_work(tmp_path, monkeypatch, started):
    """As under a limit of processes: it isn't damage."""
    monkeypatch.setattr(_arrays, "_CHUNK", 1 << 10)
    monkeypatch.setattr(_arrays, "_SYNC", 1 << 12)
    table, other = new_table(), new_table()
    learn(table, range(500))
    learn(other, range(300), 1)
    start, asked = threading.Thread.start, []

    def start_some(thread):
        asked.append(thread)
        if len(asked) % 3 >= started:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with fi.checkpoint.Log(tmp_path / "log", compact=None) as log:
        for position, each in enumerate((table, other)):
            fi.checkpoint.save(each, tmp_path / "saved", position=position)
            log.append(each, position=position)
            for found, at in (fi.checkpoint.load(tmp_path / "saved"), log.restore()):
                assert (state_of(found), at) == (state_of(each), position)
    assert len(asked) >= 8


def test_saves_and_loads_when_the_interpreter_ends(tmp_path):
    script = f"""if True:
        import atexit, threading, numpy as np, fastinc as fi
        fi.set_num_threads(2)
        table = fi.EmbeddingTable(dim=4)
        table.update(np.arange(100), np.ones((100, 4), dtype=np.float32))

        def save():
            fi.checkpoint.save(table, {str(tmp_path / "saved")!r}, position=5)
            found, position = fi.checkpoint.load({str(tmp_path / "saved")!r})
            with fi.checkpoint.Log({str(tmp_path / "log")!r}) as log:
                log.append(found, position=position)

        atexit.register(save)"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)
    table, position = fi.checkpoint.Log(tmp_path / "log").restore()
    assert (len(table), position) == (100, 5)


class OwnTable(fi.EmbeddingTable):
    """What no checkpoint knows to make."""


class OwnModel(fi.Recommender):
    """Likewise."""


class OwnIndex(fi.LiveIndex):
    """Likewise."""


@pytest.mark.parametrize(
    ("make", "name", "base"),
    [
        (lambda: OwnTable(dim=2), "OwnTable", "EmbeddingTable"),
        (lambda: OwnModel(dim=4), "OwnModel", "Recommender"),
        (lambda: OwnIndex(fi.EmbeddingTable(dim=2)), "OwnIndex", "LiveIndex"),
        (lambda: fi.LiveIndex(OwnTable(dim=2)), "OwnTable", "EmbeddingTable"),
    ],
)
def test_what_would_come_back_as_another_class_is_refused(tmp_path, make, name, base):
    message = rf"is of the class \S*{name} and would come back as {base}"
    with pytest.raises(TypeError, match=message):
        fi.checkpoint.save(make(), tmp_path / "model")
    with fi.checkpoint.Log(tmp_path / "log") as log, pytest.raises(TypeError, match=message):
        log.append(make())
    assert list(tmp_path.iterdir()) == []


def test_int8_rows_are_those_of_any_table(tmp_path):
    """They come back as nobody's."""
    table = OwnTable(dim=2)
    table.load([7], np.ones((1, 2), dtype=np.float32))
    fi.checkpoint.export_int8(table, tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as file:
        assert file["ids"].tolist() == [7]


def test_the_tables_of_a_model_are_saved(tmp_path):
    model = fi.Recommender(dim=4).partial_fit([1, 1, 2], [10, 11, 10])
    fi.checkpoint.save(model.item_table, tmp_path / "items")
    table, _ = fi.checkpoint.load(tmp_path / "items")
    assert type(table) is fi.EmbeddingTable
    assert np.array_equal(table.lookup(table.ids()), model.item_table.lookup(table.ids()))


@pytest.mark.parametrize("eviction", ["lru", "lfu"])
def test_appends_beside_loads_of_a_full_table_have_all_rows(tmp_path, eviction):
    """A batch marks the rows it uses before it sets them: an append has them as they were."""
    table = new_table(dim=4, max_rows=2000, eviction=eviction)
    table.load(np.arange(2000), np.ones((2000, 4), dtype=np.float32))
    done = threading.Event()

    def write():
        rng = np.random.default_rng(0)
        while not done.is_set():
            table.load(rng.integers(0, 3000, 200), np.ones((200, 4), dtype=np.float32))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with fi.checkpoint.Log(tmp_path, compact=None) as log:
            for _ in range(40):
                log.append(table)
                assert len(log.restore()[0]) == 2000
    finally:
        done.set()
        writer.join()


def test_a_table_set_to_another_state_during_an_append(tmp_path, monkeypatch):
    table, other = new_table(), new_table()
    learn(table, range(30))
    learn(other, range(30), 5)
    export = fi.checkpoint._tables.export_change

    def set_meanwhile(core, since):
        result = export(core, since)
        table.__setstate__(other.__getstate__())
        return result

    with fi.checkpoint.Log(tmp_path) as log:
        log.append(table)
        monkeypatch.setattr(fi.checkpoint._tables, "export_change", set_meanwhile)
        log.append(table)
        monkeypatch.undo()
        learn(table, [3])
        log.append(table)
        assert state_of(log.restore()[0]) == state_of(table)


def test_a_folder_removed_under_its_log(tmp_path):
    table = new_table()
    folder = tmp_path / "log"
    with fi.checkpoint.Log(folder) as log:
        log.append(table)
        shutil.rmtree(folder)
        for _ in range(2):
            with pytest.raises(fi.checkpoint.LockedError, match="was removed or replaced under the log"):
                log.append(table)
        with fi.checkpoint.Log(folder) as another:
            another.append(table)
            with pytest.raises(fi.checkpoint.LockedError):
                log.append(table)


@pytest.mark.parametrize(
    "position", [10**5000, functools.reduce(lambda inner, _: [inner], range(5000), 1)], ids=["long", "deep"]
)
def test_positions_that_json_cannot_hold(tmp_path, position):
    with pytest.raises(TypeError, match="position"):
        fi.checkpoint.save(new_table(), tmp_path / "c", position=position)
    assert not (tmp_path / "c").exists()

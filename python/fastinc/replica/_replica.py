"""A model that is served from its leader's log."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastinc._arguments import as_number, as_path, as_whole
from fastinc.checkpoint import _directory, _restoring
from fastinc.checkpoint._restoring import GoneError, State, read_manifest
from fastinc.live_index import LiveIndex
from fastinc.recommender import Recommender
from fastinc.replica._tail import LogTail, LostError
from fastinc.table import EmbeddingTable

__all__ = ["Lag", "Replica", "follow"]

_log = logging.getLogger("fastinc.replica")
#: Seconds to the next try after one that failed.
_RETRY = 1.0


class Lag(NamedTuple):
    """How far a replica is behind the log.

    Parameters
    ----------
    records
        Appends that it hasn't taken in yet.
    versions
        Versions of the leader's table (for a recommender: of its item table) that these are.
    milliseconds
        Since the oldest of them began; 0.0 where there is none.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.replica.Lag(records=2, versions=10, milliseconds=31.5).records
    2
    """

    records: int
    versions: int
    milliseconds: float


@dataclass
class _Served:
    """What answers at one time; a resync replaces all of it."""

    state: State
    tail: LogTail
    version: int
    index: LiveIndex | None = None


def follow(
    path: str | os.PathLike[str],
    *,
    poll: float = 0.05,
    timeout: float = 30.0,
    factory: str = "exact",
    metric: str = "ip",
) -> Replica:
    """Serve the table, index or recommender that another process appends to a :class:`fastinc.checkpoint.Log`.

    Parameters
    ----------
    path
        The log's folder. It is only read.
    poll
        Seconds between two looks at it.
    timeout
        Seconds to wait for the first append.
    factory, metric
        Of the :class:`fastinc.LiveIndex` behind :meth:`Replica.search`, unless the log is of one.

    Returns
    -------
    Replica
        At the newest append; a thread keeps it there.

    Raises
    ------
    TimeoutError
        Nothing was appended within `timeout`.
    ValueError
        The log is damaged, or `path` holds something else.

    Examples
    --------
    >>> import tempfile, numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    >>> with tempfile.TemporaryDirectory() as folder, fi.checkpoint.Log(folder) as log:
    ...     _ = log.append(table)
    ...     with fi.replica.follow(folder) as replica:
    ...         _ = table.update([7], np.ones((1, 2), dtype=np.float32))
    ...         replica.wait(log.append(table).number)
    ...         replica.lookup([7]).tolist(), replica.lag().records
    ([[-1.0, -1.0]], 0)
    """
    return Replica(path, poll=poll, timeout=timeout, factory=factory, metric=metric)


class Replica:
    """A copy of a leader's model that is kept in step by a thread; made by :func:`follow`.

    Rows change in place, each append as one batch, so that readers see a row before or after it; what was removed or
    evicted there is gone here. Where records are gone or were replaced (the leader was restarted, or compacted the log
    before they were read) all is loaded anew beside what is served, and then takes its place.
    """

    def __init__(self, path: str | os.PathLike[str], *, poll: float, timeout: float, factory: str, metric: str) -> None:
        self._poll, timeout = _seconds(poll, "poll"), _seconds(timeout, "timeout")
        self._folder = as_path(path).absolute()
        _directory.refuse_checkpoint(self._folder)
        self._factory, self._metric = factory, metric
        self._error: Exception | None = None
        self._resyncs = self._applied = 0
        self._delay = 0.0
        self._changed = threading.Condition()
        self._indexing = threading.Lock()
        self._stop = threading.Event()
        self._process = os.getpid()
        self._current = self._first_load(timeout)
        self._make_index(EmbeddingTable(_table_of(self._current.state.obj).dim))  # what can't be made raises here
        self._thread = threading.Thread(target=_run, args=(weakref.ref(self), self._stop), daemon=True)
        self._thread.name = "fastinc-replica"
        self._thread.start()

    def __enter__(self) -> Replica:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Replica({str(self._folder)!r}, number={self._current.state.number})"

    @property
    def _served(self) -> _Served:
        if self._process != os.getpid():
            raise RuntimeError(f"a replica stays with the process that made it, {self._process}: follow() in this one")
        return self._current

    # --- what it is ---

    @property
    def model(self) -> EmbeddingTable | LiveIndex | Recommender:
        """What is served: for reading. After a resync it is another object."""
        model: EmbeddingTable | LiveIndex | Recommender = self._served.state.obj
        return model

    @property
    def number(self) -> int:
        """The number of the append that it is at."""
        return self._served.state.number

    @property
    def position(self) -> Any:
        """Where in its stream the leader was then."""
        return self._served.state.position

    @property
    def version(self) -> int:
        """The leader's version then: of its table, or of its recommender's item table."""
        return self._served.version

    @property
    def error(self) -> Exception | None:
        """Why the newest appends can't be had, while what was there before is served; None: they can."""
        return self._error

    def lag(self) -> Lag:
        """Return how far it is behind what the log has by now."""
        served = self._served
        waiting = served.tail.waiting()
        there = _directory.listing(self._folder)
        newest = max([served.state.number, *there.bases[-1:], *(head.number for head in waiting[-1:])])
        if newest == served.state.number:
            return Lag(0, 0, 0.0)
        begun = [float(head.meta["time"]) for head in waiting]
        if there.bases and there.bases[-1] > served.state.number:
            begun += self._time_of(there.bases[-1], there)
        version = _version(waiting[-1].meta["parameters"]) if waiting else served.version
        return Lag(
            newest - served.state.number,
            version - served.version,
            max(0.0, (time.time() - min(begun, default=served.state.time)) * 1e3),
        )

    def _time_of(self, base: int, there: _directory.Listing) -> list[float]:
        """Return when a base was appended; nothing where that can't be read."""
        try:
            manifest = read_manifest(self._folder, base, there)
        except (GoneError, ValueError, OSError):
            return []
        return [] if manifest is None else [manifest["time"]]

    def stats(self) -> dict[str, Any]:
        """Return counters: records taken in, full loads after the first, and how old the last record was, in ms, when
        it was there for readers.
        """
        return {"applied": self._applied, "resyncs": self._resyncs, "delay_milliseconds": self._delay}

    def wait(self, number: int, timeout: float = 30.0) -> None:
        """Return as soon as an append is taken in.

        Parameters
        ----------
        number
            Of the append.
        timeout
            Seconds.

        Raises
        ------
        TimeoutError
            It wasn't taken in by then; the message has :attr:`error`.
        """
        number, timeout = as_whole(number, "number", 0), _seconds(timeout, "timeout")
        _ = self._served  # a forked child's copy of the condition may be held by nobody, for ever
        with self._changed:
            if not self._changed.wait_for(lambda: self.number >= number, timeout):
                raise TimeoutError(f"{self!r} isn't at number {number} after {timeout} s; error: {self._error}")

    # --- what it answers ---

    def lookup(self, ids: Any) -> NDArray[np.float32]:
        """Return rows of a table, or vectors and biases of a recommender's items.

        Parameters
        ----------
        ids
            (n,) ids of the table, or of items.

        Returns
        -------
        ndarray
            (n, dim) float32, or (n, dim + 1) of items. An id without a row has the table's start row.

        Raises
        ------
        ValueError
            A recommender's leader doesn't know an item.
        """
        model = self.model
        if isinstance(model, Recommender):
            codes = model._item_ids.encode(ids, add=False, name="ids")
            if (codes < 0).any():
                at = int(np.argmax(codes < 0))
                (unknown,) = np.ravel(ids)[at : at + 1].tolist()
                raise ValueError(f"ids[{at}] = {unknown!r} is not a known item")
            ids = codes
        rows: NDArray[np.float32] = _table_of(model).lookup(ids)
        return rows

    def search(self, queries: Any, k: int = 10) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return the k best rows of each query, by the live index over what is served.

        Parameters
        ----------
        queries
            (n, dim) or (dim,) float32; for a recommender (n, dim + 1), as its ``user_vectors`` makes them.
        k
            Rows a query.

        Returns
        -------
        scores, ids
            As :meth:`fastinc.LiveIndex.search` has them; of a recommender they are ids of items.
        """
        served = self._served
        scores, ids = self._index(served).search(queries, k)
        model = served.state.obj
        return scores, model._item_ids.decode(ids) if isinstance(model, Recommender) else ids

    def recommend(self, users: Any, k: int = 10, **options: Any) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return the k best items of each user: for recommenders.

        Parameters
        ----------
        users, k, **options
            As for :meth:`fastinc.Recommender.recommend`.

        Returns
        -------
        ids, scores
            As there.

        Raises
        ------
        TypeError
            What is served is a table or an index.
        """
        model = self.model
        if not isinstance(model, Recommender):
            raise TypeError(f"{self!r} is of a {type(model).__name__}: search() it")
        return model.recommend(users, k, **options)

    def _index(self, served: _Served) -> LiveIndex:
        with self._indexing:
            if served.index is None:
                model = served.state.obj
                served.index = model if isinstance(model, LiveIndex) else self._make_index(_table_of(model))
            return served.index

    def _make_index(self, table: EmbeddingTable) -> LiveIndex:
        return LiveIndex(table, self._factory, metric=self._metric)  # type: ignore[arg-type]

    def close(self) -> None:
        """Stop following; what was there last is still served."""
        self._stop.set()
        if self._process == os.getpid() and self._thread is not threading.current_thread():
            self._thread.join()
        self._current.tail.close()

    # --- how it is kept in step ---

    def _first_load(self, timeout: float) -> _Served:
        until = time.monotonic() + timeout
        while (served := self._load()) is None:
            if time.monotonic() > until:
                raise TimeoutError(f"nothing was appended to {self._folder} within {timeout} s")
            time.sleep(min(self._poll, max(0.0, until - time.monotonic()) + 0.001))
        return served

    def _load(self) -> _Served | None:
        state = _restoring.restore(self._folder)
        if state is None:
            return None
        for message in state.damage:
            _log.warning("%s; number %d is served", message, state.number)
        return _Served(state, LogTail(self._folder, state), _table_of(state.obj).version)

    def _keep_up(self) -> bool:
        """Take in what there is; False where that failed, and waiting may help."""
        try:
            self._take_in(self._served)
            if not self._served.tail.is_stuck:
                self._error = None
        except LostError as lost:
            _log.info("%s: %s; loading all of it", self._folder, lost)
            return self._resync()
        except Exception as error:
            _log.warning("%s: %s; loading all of it", self._folder, error)
            return self._resync()
        return True

    def _take_in(self, served: _Served) -> None:
        for record in served.tail.records():
            with self._changed:
                served.state.apply(record, keep_versions=False)
                served.version = _version(record.meta["parameters"])
                self._applied += 1
                self._delay = (time.time() - served.state.time) * 1e3
                self._changed.notify_all()
            if self._stop.is_set():
                return

    def _resync(self) -> bool:
        before = self._served
        try:
            served = self._load()
            if served is None:
                raise FileNotFoundError(f"{self._folder} is empty by now")
            if before.index is not None:
                self._index(served)
        except Exception as error:
            if str(error) != str(self._error):
                _log.error("%s: %s; number %d is still served", self._folder, error, before.state.number)
            self._error = error
            return False
        with self._changed:
            self._current, self._error = served, None
            self._resyncs += 1
            self._changed.notify_all()
        before.tail.close()
        return True


def _run(owner: weakref.ref[Replica], stop: threading.Event) -> None:
    pause = 0.0
    while not stop.wait(pause):
        replica = owner()
        if replica is None:
            return
        pause = replica._poll if replica._keep_up() else max(replica._poll, _RETRY)
        del replica


def _table_of(model: EmbeddingTable | LiveIndex | Recommender) -> EmbeddingTable:
    """Return the table that is searched."""
    if isinstance(model, Recommender):
        return model.item_table
    return model.table if isinstance(model, LiveIndex) else model


def _version(parameters: dict[str, Any]) -> int:
    """Return the version of that table, from what was exported."""
    found = parameters.get("versions", {}).get("items", parameters.get("table", parameters).get("version", 0))
    return int(found)


def _seconds(value: Any, name: str) -> float:
    seconds = as_number(value, name)
    if not 0.0 < seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} = {value} must be seconds above 0, and at most {threading.TIMEOUT_MAX:.0f}")
    return seconds

"""The change log: what an object was at each of its appends, on disk."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastinc._arguments import as_number, as_path, as_whole
from fastinc._background import Background
from fastinc.checkpoint import _directory, _entries, _manifest, _restoring, _retention
from fastinc.checkpoint._change import Change, Parameters
from fastinc.checkpoint._compression import as_compression
from fastinc.checkpoint._entries import Entry
from fastinc.checkpoint._kinds import KINDS, describe, kind_to_restore
from fastinc.checkpoint._restoring import DamageWarning
from fastinc.checkpoint._writer import Told, Writer
from fastinc.live_index import LiveIndex
from fastinc.recommender import Recommender
from fastinc.table import EmbeddingTable

__all__ = ["COMPACT_BYTES", "Log"]

#: Increments of fewer bytes aren't worth a compaction in the background.
COMPACT_BYTES = 1 << 20


@dataclass(frozen=True)
class _Last:
    """The object that the log's end is of, and what its next export starts from."""

    obj: weakref.ref[Any]
    mark: Any
    described: Parameters
    number: int
    chain: bytes


class Log:
    """A log of a table's, index's or recommender's states: each append writes what changed since the one before.

    An append of the object that the log ends with (the last one appended, or restored to the end) writes an
    *increment*: the rows that changed, the ids that went, the numbers and the position. Any other append writes a
    *base*: all of it. Both are numbered from 1, checksummed, and on disk when :meth:`append` returns. Any number that
    is kept can be restored, which is rollback. All methods may be called from many threads; one log at a time writes to
    a folder.

    Parameters
    ----------
    path
        Folder, made at the first append. Not one of :func:`save`.
    keep
        How many of the newest records can be restored at least, 1 or more; None: all, nothing is ever removed.
    keep_seconds
        Records that are younger can be restored as well; None: `keep` alone counts. What neither needs is removed
        after a base was written; the newest base and what follows it stay.
    compact
        After how many bytes of increments, as a multiple of the newest base's, the log is compacted in the background
        (see :meth:`compact`); not for less than 1 MiB. None: never.
    compression
        "zstd": arrays are compressed, by the package of the extra ``zstd``; None: they are not.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range, or `path` holds something else.

    Examples
    --------
    >>> import tempfile, numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    >>> folder = tempfile.TemporaryDirectory()
    >>> with fi.checkpoint.Log(folder.name) as log:
    ...     for offset in (1, 2, 3):
    ...         _ = table.update([7], np.ones((1, 2), dtype=np.float32))
    ...         entry = log.append(table, position=offset)
    >>> entry.number, entry.kind
    (3, 'increment')
    >>> log = fi.checkpoint.Log(folder.name)
    >>> table, position = log.restore()
    >>> table.lookup([7]).tolist(), position
    ([[-3.0, -3.0]], 3)
    >>> earlier, position = log.restore(number=1)
    >>> earlier.lookup([7]).tolist(), position
    ([[-1.0, -1.0]], 1)
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep: int | None = 1000,
        keep_seconds: float | None = None,
        compact: float | None = 1.0,
        compression: str | None = None,
    ) -> None:
        self._folder = as_path(path).absolute()
        self._keep = None if keep is None else as_whole(keep, "keep", 1)
        self._keep_seconds = None if keep_seconds is None else _positive(keep_seconds, "keep_seconds")
        self._compact = None if compact is None else _positive(compact, "compact")
        self._compression = as_compression(compression)
        _directory.refuse_checkpoint(self._folder)
        self._process = os.getpid()
        self._mutex = threading.RLock()
        self._compacting = threading.Lock()
        self._writer: Writer | None = None
        self._last: _Last | None = None
        self._restored: _Last | None = None
        self._closed = False
        self._warned = False
        self._error: Exception | None = None
        self._untold = False
        self._tried_bytes = 0
        self._background = Background(self, Log._compact_quietly, "fastinc-log")
        self._finalizer: Any = None

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def error(self) -> Exception | None:
        """Why the last compaction in the background, or letting go of what isn't kept, failed; None: it didn't."""
        return self._error

    def __repr__(self) -> str:
        return f"Log({str(self._folder)!r})"

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lock(self) -> None:
        """Keep all others from writing to the folder, as the first append does, before there is anything to append.

        Raises
        ------
        OSError, RuntimeError, ValueError
            As for :meth:`append`.

        Examples
        --------
        >>> import tempfile, fastinc as fi
        >>> with tempfile.TemporaryDirectory() as folder, fi.checkpoint.Log(folder) as log:
        ...     log.lock()
        ...     try:
        ...         fi.checkpoint.Log(folder).append(fi.EmbeddingTable(dim=2))
        ...     except RuntimeError:
        ...         print("it has a writer already")
        it has a writer already
        """
        with self._locked():
            self._writing()

    def append(self, obj: EmbeddingTable | LiveIndex | Recommender, position: Any = None) -> Entry:
        """Write what changed of an object since the last append, or all of it where the log ends with another.

        Parameters
        ----------
        obj
            An :class:`EmbeddingTable`, :class:`LiveIndex` or :class:`Recommender`. What other threads write to it
            meanwhile is in this append or the next.
        position
            Where in its stream it is: anything JSON can hold.

        Returns
        -------
        Entry
            What was written. It is on disk.

        Raises
        ------
        TypeError
            `obj` can't be saved, as one of a class derived from these can't, or `position` is not JSON; nothing was
            written.
        LockedError
            Another log writes to this folder, or it was removed meanwhile.
        RuntimeError
            This log was made before the process was forked.
        OSError
            Writing failed: the log ends where it did. The next append has what this one should have had.
        ValueError
            The log is closed.

        Examples
        --------
        >>> import tempfile, fastinc as fi
        >>> model = fi.Recommender(dim=4)
        >>> with tempfile.TemporaryDirectory() as folder, fi.checkpoint.Log(folder) as log:
        ...     entry = log.append(model.partial_fit([1], [10]), position=1)
        >>> entry.number, entry.position
        (1, 1)
        """
        kind = kind_to_restore(obj)
        position = _manifest.as_json(position)
        with self._locked():
            self._tell()
            writer = self._writing()
            entry, change = self._put(writer, obj, Told(kind, position, time.time()))
            assert writer.chain is not None
            described = describe(kind, change.parameters)
            self._last = _Last(weakref.ref(obj), change.mark, described, writer.number, writer.chain)
            self._restored = None
            if entry.kind == "base":
                self._tried_bytes = 0
                self._let_go()
            elif self._is_long(writer):
                self._tried_bytes = writer.increments_bytes
                self._background.wake()
            return entry

    def _put(self, writer: Writer, obj: Any, told: Told) -> tuple[Entry, Change]:
        kind, end = KINDS[told.kind], (writer.number, writer.chain)
        known = [last for last in (self._last, self._restored) if last is not None and last.obj() is obj]
        last = next((last for last in known if (last.number, last.chain) == end), None)
        change = kind.export(obj, None if last is None else last.mark)
        if change.whole or last is None:
            return writer.add_base(change, told), change
        if describe(told.kind, change.parameters) != last.described:
            change = kind.export(obj, None)
            return writer.add_base(change, told), change
        return writer.add_increment(change, told), change

    def restore(self, number: int | None = None, at: float | None = None) -> tuple[Any, Any] | None:
        """Return a state of the log: the newest, or that of a number or time that is kept.

        The next append of an object that was restored to the log's end is an increment; after a rollback it is a base,
        with the next number.

        Parameters
        ----------
        number
            Of the append whose state to return.
        at
            Unix time, instead of a number: the state then is of the last append until then.

        Returns
        -------
        (obj, position) or None
            None where nothing was ever appended. Rows of a table with ``fi.TTL`` count as written now.

        Raises
        ------
        TypeError
            Both `number` and `at` were given.
        ValueError
            `number` or `at` is not kept, or a file is damaged before that state: the message tells which number can be
            restored.

        Warns
        -----
        DamageWarning
            The end of the log is cut short, or a base is damaged and another one was used. A state older than the
            newest may then be returned, with its position.

        Examples
        --------
        >>> import tempfile, fastinc as fi
        >>> with tempfile.TemporaryDirectory() as folder, fi.checkpoint.Log(folder) as log:
        ...     log.restore() is None
        ...     entry = log.append(fi.EmbeddingTable(dim=2), position="a")
        ...     log.restore(at=entry.time)
        True
        (EmbeddingTable(dim=2, optimizer=RowWiseAdagrad(lr=0.05, eps=1e-08, weight_decay=0.0, \
decoupled_weight_decay=False, initial_accumulator_value=0.0, forgetting_factor=1.0), rows=0, version=0), 'a')
        """
        if number is not None and at is not None:
            raise TypeError(f"number = {number!r} and at = {at!r}: give one of them")
        target = None if number is None else as_whole(number, "number", 1, 2**63 - 1)
        if at is not None:
            target = _entries.number_at(self._folder, as_number(at, "at"))
        state = _restoring.restore(self._folder, target)
        if state is None:
            return None
        state.warn()
        if self._process == os.getpid():
            with self._mutex:
                self._remember(state)
        return state.obj, state.position

    def _remember(self, state: _restoring.State) -> None:
        """An object that was restored may be the next to be appended: the newest of them."""
        self._warned = self._warned or bool(state.damage)
        before = self._restored
        if before is None or before.obj() is None or state.number >= before.number:
            mark = KINDS[state.kind].mark(state.obj)
            self._restored = _Last(weakref.ref(state.obj), mark, state.described, state.number, state.chain)

    def entries(self) -> list[Entry]:
        """Return the appends that are kept, oldest first: those with a base before them.

        What they hold is not read, so that damage in it isn't noticed before :meth:`restore`.

        Raises
        ------
        RuntimeError
            A writer removes files faster than they are read.

        Examples
        --------
        >>> import tempfile, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> with tempfile.TemporaryDirectory() as folder, fi.checkpoint.Log(folder) as log:
        ...     for offset in (10, 20):
        ...         _ = log.append(table, position=offset)
        ...     [(entry.number, entry.kind, entry.position) for entry in log.entries()]
        [(1, 'base', 10), (2, 'increment', 20)]
        """
        return _entries.entries(self._folder)

    def compact(self) -> int | None:
        """Write the newest state as a base, so that restoring begins there, and let go of what isn't kept.

        The state comes from the log's files, not from the object that is appended, which goes on learning, and appends
        go on: meanwhile it takes twice the memory of that object.

        Returns
        -------
        int or None
            The number of the new base; None where the log ends with one.

        Raises
        ------
        OSError, RuntimeError, ValueError
            As for :meth:`append` and :meth:`restore`: nothing has changed.

        Examples
        --------
        >>> import tempfile, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> with tempfile.TemporaryDirectory() as folder, fi.checkpoint.Log(folder) as log:
        ...     _ = log.append(table), log.append(table)
        ...     log.compact(), log.compact()
        (2, None)
        """
        self._check_process()
        with self._compacting:
            with self._locked():
                writer = self._writing()
                number, chain = writer.number, writer.chain
            if number == 0 or (chain is not None and _restoring.chain_of(self._folder, number) == chain):
                return None
            state = _restoring.restore(self._folder, number)
            if state is None or state.chain != chain:
                raise ValueError(f"{self._folder} can't be compacted: number {number} isn't what was appended")
            change = KINDS[state.kind].export(state.obj, None)
            state.obj = None  # what is written is all that is needed
            told = Told(state.kind, state.position, state.time)
            with writer.base(number, state.chain, change, told) as put, self._mutex:
                put()
                self._tried_bytes = 0
                self._let_go()
            return number

    def close(self) -> None:
        """Let others write to the folder, after a compaction that is at work. Restoring still works.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.checkpoint.Log("never-appended-to").close()
        """
        if self._process != os.getpid():
            return
        with self._mutex:
            self._closed = True
        self._background.close()
        with self._compacting, self._mutex:
            self._release()

    def _release(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._writer = self._finalizer = None

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError(
                f"{self!r} was made by process {self._process}, which this one was forked from: make another"
            )

    def _locked(self) -> Any:
        self._check_process()
        return self._mutex

    def _writing(self) -> Writer:
        """Return what writes; the first time, the folder is locked and looked over."""
        if self._closed:
            raise ValueError(f"{self!r} is closed")
        if self._writer is None:
            _directory.refuse_checkpoint(self._folder)
            writer = self._writer = Writer(self._folder, self._compression)
            self._finalizer = weakref.finalize(self, writer.close)
            self._finalizer.atexit = False  # a compaction may be at work until the end
            if writer.cut is not None and not self._warned:
                warnings.warn(writer.cut, DamageWarning, stacklevel=3)
        self._writer.check()
        return self._writer

    def _is_long(self, writer: Writer) -> bool:
        """Tell whether it is time to compact; after a failure, only when as much has come again."""
        if self._compact is None:
            return False
        most = max(COMPACT_BYTES, self._compact * writer.base_bytes)
        return writer.increments_bytes - self._tried_bytes > most

    def _compact_quietly(self) -> None:
        try:
            if not self._closed:
                self.compact()
        except Exception as error:
            self._error, self._untold = error, True

    def _let_go(self) -> None:
        """A base is on disk: whether what isn't kept can be removed changes nothing about that."""
        try:
            if self._keep is not None:
                _retention.let_go(self._folder, self._keep, self._keep_seconds, time.time())
        except Exception as error:
            self._error, self._untold = error, True
        else:
            self._error, self._untold = None, False

    def _tell(self) -> None:
        if self._untold:
            self._untold = False
            message = f"{self._folder} was not compacted: {type(self._error).__name__}: {self._error}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def _positive(value: Any, name: str) -> float:
    number = as_number(value, name)
    if not 0.0 < number < float("inf"):
        raise ValueError(f"{name} = {value} must be a number above 0")
    return number

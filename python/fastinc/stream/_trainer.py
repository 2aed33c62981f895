"""The loop that learns from a stream for ever, and can be killed at any moment."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fastinc._arguments import as_call, as_share, as_whole
from fastinc.checkpoint import _manifest
from fastinc.recommender import Recommender
from fastinc.stream._dead_letters import DeadLetters, no_file
from fastinc.stream._pending import Pending, acceptable
from fastinc.stream._saved import WAY_OUT, check_model, check_position, to_position
from fastinc.stream._source import Batch, Rejected, Source
from fastinc.stream._source import log as messages

__all__ = ["Progress", "StateLog", "train"]

#: Seconds that a read waits: how soon a stop is noticed when nothing comes.
_WAIT = 0.25
#: Sources that a trainer has read from, by id(): where they began is behind them. They need not be hashable.
_begun: weakref.WeakValueDictionary[int, Source] = weakref.WeakValueDictionary()


class StateLog(Protocol):
    """What `train` saves to: `fastinc.checkpoint.Log` is one.

    Where there are methods `lock` and `entries`, as a Log's, they are called before anything is changed.
    """

    def append(self, obj: Any, position: Any = None) -> Any:
        """Save a model and its position, whole or not at all."""


@dataclass(frozen=True)
class Progress:
    """How far `train` is.

    Parameters
    ----------
    events
        Learned from this stream, earlier runs included.
    held
        Read, and waiting for their group to be full: they are saved with the position.
    rejected
        Malformed or refused, earlier runs included.
    checkpoints
        Made by this call; the first one before anything is read.
    seconds
        Since this call began.
    learned
        Events learned by this call.
    first_rejected
        The first event that this call rejected; None: there was none.

    Examples
    --------
    >>> import fastinc as fi
    >>> progress = fi.stream.Progress(1000, 3, 1, 2, 0.5, 400)
    >>> progress.events, progress.learned / progress.seconds
    (1000, 800.0)
    """

    events: int
    held: int
    rejected: int
    checkpoints: int
    seconds: float
    learned: int
    first_rejected: Rejected | None = None


def train(
    model: Recommender,
    source: Source,
    log: StateLog,
    *,
    position: Any = None,
    checkpoint_every: int = 10_000,
    checkpoint_seconds: float | None = 60.0,
    batch_size: int = 1024,
    max_events: int | None = None,
    linger: float | None = None,
    dead_letters: str | os.PathLike[str] | None = None,
    on_batch: Callable[[Batch], object] | None = None,
    on_checkpoint: Callable[[Progress], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Progress:
    r"""Learn a stream until it ends, for ever if it doesn't, and have each event in the saved state exactly once.

    State and position are saved in one step. After a crash at any moment, `log.restore()` returns a model and the
    position that belongs to it; events read after that come once more. The result has the same bytes as a run that was
    never interrupted, for a stream that gives the same events in the same order: events are learned in full groups of
    the model's `batch_size`, and the few that wait for theirs are saved within the position. The last group of a stream
    that ends is learned as it is.

    As long as nothing of a stream was learned, no position in it is saved: where an option is wrong, and every event is
    rejected, a run with the right one reads them all. The first event that is rejected is logged.

    Memory is bounded: a batch is read when the one before it is learned.

    Parameters
    ----------
    model
        Learns. Others may ask it meanwhile; nobody else may train it.
    source
        Of `fastinc.stream.open`, or your own. One that another call has read from is taken where the position says
        where in it to go on; a position of before the first read doesn't, and needs a source that is opened again.
    log
        A `fastinc.checkpoint.Log`: its `append` is called with the model and ``position=``.
    position
        What `log.restore()` returned with the model, also for another attempt after an error: the model may be ahead of
        what was saved. None: the stream begins, and so does the log, which must be empty.
    checkpoint_every, checkpoint_seconds
        Save after so many events read, and (unless None) when something was read and the last time is so long ago.
    batch_size
        Events asked of the source at a time.
    max_events
        Return after so many events were read by this call, malformed ones included; None: no limit.
    linger
        Learn events that wait for their group after so many seconds without new ones. That makes the grouping, and so
        the bytes, depend on when events came. None: they wait.
    dead_letters
        A regular file that gets a JSON line with ``log`` (the same for all runs of a log), ``number`` (of the events
        that this log rejected), ``where``, ``reason`` and ``raw`` for each event that is malformed or that the model
        refuses. What is in it stays, but for letters of this log that were written after the state that is gone on
        from, by a run that was killed or before a rollback: they come again. One trainer at a time writes to it, and
        the source must not read it. None: such events are only counted.
    on_batch
        Called with each batch after it was taken in.
    on_checkpoint
        Called with the progress after each save.
    stop
        Asked between batches and while nothing comes: every half second, or where a server doesn't answer every 1.5
        (Kafka: 1, later 5). True: save and return.

    Returns
    -------
    Progress
        What was done in the end; everything is saved, unless nothing was learned.

    Raises
    ------
    TypeError
        An argument is of a wrong type; or `source` gives what is no `Batch`, or a position that is not JSON; what it
        gave before is saved.
    ValueError
        A wrong argument; or a position that isn't of `train`, or not of this stream or model; or a gap in the stream,
        in which case all that was read before it is saved; or a file of dead letters that isn't the one that was
        written, or has letters of others where this log's would be cut off, or is read by the source.
    RuntimeError
        Somebody else writes to the log or the dead letters; nothing was changed.
    OSError
        Saving failed, or writing dead letters: the last save still is what the next run goes on from.

    Examples
    --------
    >>> import pathlib, tempfile, fastinc as fi
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> rows = [f'{{"user": {n % 7}, "item": {n % 11}}}' for n in range(100)] + ["oops"]
    >>> _ = (folder / "clicks.jsonl").write_text("\n".join(rows) + "\n")
    >>> with fi.stream.open(folder / "clicks.jsonl") as source, fi.checkpoint.Log(folder / "model") as log:
    ...     model, position = log.restore() or (fi.Recommender(dim=8), None)
    ...     done = fi.stream.train(model, source, log, position=position, dead_letters=folder / "dead.jsonl")
    >>> done.events, done.rejected
    (100, 1)
    """
    _check_parts(model, source, log)
    trainer = _Trainer(
        model,
        source,
        log,
        as_whole(checkpoint_every, "checkpoint_every", 1),
        None if checkpoint_seconds is None else as_share(checkpoint_seconds, "checkpoint_seconds"),
        position,
        dead_letters,
    )
    trainer.on_batch = None if on_batch is None else as_call(on_batch, "on_batch")
    trainer.on_checkpoint = None if on_checkpoint is None else as_call(on_checkpoint, "on_checkpoint")
    size = as_whole(batch_size, "batch_size", 1)
    limit = None if max_events is None else as_whole(max_events, "max_events", 1, 2**53)
    idle = None if linger is None else as_share(linger, "linger")
    is_told = (lambda: False) if stop is None else as_call(stop, "stop")
    try:
        trainer.begin(position)
        trainer.run(size, limit, idle, is_told)
    finally:
        trainer.close()
    return trainer.progress()


def _check_parts(model: Any, source: Any, log: Any) -> None:
    if not isinstance(model, Recommender):
        raise TypeError(f"model = {model!r} must be a fastinc.Recommender")
    if not isinstance(source, Source):
        raise TypeError(f"source = {source!r} must be a fastinc.stream.Source, such as fastinc.stream.open() makes")
    if not callable(getattr(log, "append", None)):
        raise TypeError(f"log = {log!r} must have a method append, as fastinc.checkpoint.Log has")


class _Trainer:
    """The state of a call of `train`."""

    on_batch: Callable[[Batch], object] | None = None
    on_checkpoint: Callable[[Progress], object] | None = None

    def __init__(
        self,
        model: Recommender,
        source: Source,
        log: StateLog,
        every: int,
        seconds: float | None,
        position: Any,
        dead_letters: str | os.PathLike[str] | None,
    ) -> None:
        self._model, self._source, self._log = model, source, log
        self._every, self._seconds = every, seconds
        self._group = int(model.get_params()["batch_size"])
        self._pending = Pending()
        saved = {} if position is None else check_position(position)
        self._at: Any = saved.get("source")  # of the source, after all that was read
        self._events, self._rejected = saved.get("events", 0), saved.get("rejected", 0)
        if position is not None:
            check_model(model.n_events, saved)
        self._pending.load(saved.get("held"))
        self._began = self._checkpointed = self._last_event = time.monotonic()
        self._learned_before = self._events
        self._read = self._since = self._checkpoints = 0
        self._first_rejected: Rejected | None = None
        self._letters = None
        self._no_letters = saved.get("dead_letters") or no_file()
        if dead_letters is not None:
            self._letters = DeadLetters(dead_letters, saved.get("dead_letters"), self._rejected)
            if source.reads(self._letters.path):
                raise ValueError(
                    f"dead_letters = {os.fspath(dead_letters)!r} is a file that {source.name} reads, so that each "
                    "letter would be an event: put it elsewhere"
                )

    def progress(self) -> Progress:
        return Progress(
            events=self._events,
            held=len(self._pending),
            rejected=self._rejected,
            checkpoints=self._checkpoints,
            seconds=time.monotonic() - self._began,
            learned=self._events - self._learned_before,
            first_rejected=self._first_rejected,
        )

    def close(self) -> None:
        if self._letters is not None:
            self._letters.close()

    def begin(self, position: Any) -> None:
        """Go to where the model is, and save before the first read.

        The log must be known to be nobody else's before dead letters are cut off, and before entries are read: who
        reads the same ones for the same consumer would take them away.
        """
        lock = getattr(self._log, "lock", None)
        if lock is not None:
            lock()
        entries = getattr(self._log, "entries", None)
        if position is None and entries is not None and entries():
            raise ValueError(
                f"position = None, but {self._log!r} has a model: pass what its restore() returns. {WAY_OUT}"
            )
        if self._at is not None:
            self._source.seek(self._at)
        elif _begun.get(id(self._source)) is self._source:
            raise ValueError(
                f"source {self._source.name} was read from before, and the position is of before its first event: what "
                "it gave would be left out. Open it again"
            )
        if self._letters is not None:
            self._letters.open()
        self._checkpoint()

    def run(self, batch_size: int, limit: int | None, linger: float | None, stop: Callable[[], bool]) -> None:
        while not stop() and (limit is None or self._read < limit):
            room = min(batch_size, self._every - self._since)
            try:
                batch = self._batch(room if limit is None else min(room, limit - self._read))
            except Exception:
                self._checkpoint_if(self._since > 0)
                raise
            if batch is not None:
                self._take(batch)
            elif self._source.ended:
                self._learn(everything=True)
                break
            elif linger is not None and time.monotonic() - self._last_event >= linger:
                self._learn(everything=True)
            self._checkpoint_if(self._due())
        self._checkpoint_if(self._since > 0)

    def _batch(self, most: int) -> Batch | None:
        """Read a batch, and know that what it says can be saved."""
        came = True  # also where it raises: nobody knows
        try:
            batch = self._source.read(most, _WAIT)
            came = batch is not None
        finally:
            if came:
                _begun[id(self._source)] = self._source
        if batch is None:
            return None
        if not isinstance(batch, Batch):
            raise TypeError(f"source {self._source.name}: read() gave a {type(batch).__name__}, not a Batch or None")
        try:
            _manifest.as_json(batch.position)
        except TypeError as error:
            raise TypeError(f"source {self._source.name}, Batch: {error}") from None
        return batch

    def _take(self, batch: Batch) -> None:
        columns, refused = acceptable(self._model, batch)
        rejected = [*batch.rejected, *refused]
        if self._letters is not None:
            self._letters.write(rejected)
        self._rejected += len(rejected)
        if rejected and self._first_rejected is None:
            self._first_rejected = first = rejected[0]
            messages.warning(
                "%s: the first event that is rejected: %s: %s", self._source.name, first.where, first.reason
            )
        self._pending.add(columns)
        self._at = batch.position
        rows = len(batch) + len(batch.rejected)
        self._read += rows
        self._since += rows
        self._last_event = time.monotonic()
        self._learn()
        if self.on_batch is not None:
            self.on_batch(batch)

    def _learn(self, everything: bool = False) -> None:
        """Learn all full groups, or all events."""
        n = len(self._pending)
        if not everything:
            n -= (self._model.n_events + n) % self._group
        if n > 0:
            self._model.partial_fit(*self._pending.take(n))
            self._events += n
            self._since = max(self._since, 1)  # there is something to save, if only that these are held no more

    def _due(self) -> bool:
        if self._since >= self._every:
            return True
        if self._seconds is None or not self._since:
            return False
        return time.monotonic() - self._checkpointed >= self._seconds

    def _checkpoint_if(self, due: bool) -> None:
        if not due:
            return
        if self._events or len(self._pending):
            self._checkpoint()
        else:  # all were rejected: a run with another option is to have them again
            self._since = 0

    def _checkpoint(self) -> None:
        """Save the model with where it is; only then tell the source."""
        letters = self._no_letters if self._letters is None else self._letters.sync()
        position = to_position(
            source=self._at,
            held=self._pending.to_json(),
            events=self._events,
            rejected=self._rejected,
            model_events=self._model.n_events,
            dead_letters=letters,
        )
        self._log.append(self._model, position=position)
        if self._at is not None:
            self._source.commit(self._at)
        self._since = 0
        self._checkpointed = time.monotonic()
        self._checkpoints += 1
        if self.on_checkpoint is not None:
            self.on_checkpoint(self.progress())

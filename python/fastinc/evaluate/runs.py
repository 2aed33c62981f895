"""One pass of one model over a stream, chunk by chunk: each event is judged, then learned."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastinc import _core
from fastinc._stream import StreamModel
from fastinc.evaluate.stream import Ints, Stream

Core = _core.PrequentialRun  # its constants say what became of an event
Columns = npt.NDArray[Any]

_BEYOND = np.iinfo(np.int32).max  # the rank of an item that a list does not hold


class ListModel(Protocol):
    """What `prequential` asks of a model that is not one of fastinc's."""

    def partial_fit(self, users: Any, items: Any, labels: Any = None, timestamps: Any = None) -> Any:
        """Learn events."""

    def recommend(self, users: Any, k: int = 10, at: Any = None, exclude_seen: bool = True) -> tuple[Any, Any]:
        """Return ids and scores, best first."""


@dataclass(frozen=True)
class Asked:
    """What a run finds out, and under which rules.

    Parameters
    ----------
    exclude_seen
        Whether the items that the user had are no candidates.
    delay
        Seconds between an event and its learning.
    predict
        Whether the label of every event is predicted before the event is learned.
    list_size
        How long the lists are that are kept for each scored event; 0: none are.
    longest
        How many places a model that gives lists is asked for.
    """

    exclude_seen: bool
    delay: float
    predict: bool
    list_size: int
    longest: int


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of some events.

    Parameters
    ----------
    ranks
        (n,) int32: the rank of the event's item from 1, 0 for a new item, or one of the negative codes of
        `fastinc._core.PrequentialRun`.
    predictions
        (n,) float32, NaN in the warm-up, or None.
    lists
        (scored, k) int32, item codes of the stream for each *scored* event, -1 behind them, or None.
    """

    ranks: Ints
    predictions: npt.NDArray[np.float32] | None
    lists: Ints | None

    @classmethod
    def join(cls, parts: Iterable[Outcomes]) -> Outcomes:
        """Return the outcomes of one chunk after the other as one.

        Parameters
        ----------
        parts
            One or more.

        Returns
        -------
        Outcomes
            All of them.

        Examples
        --------
        >>> part = Outcomes(np.array([3], dtype=np.int32), None, None)
        >>> Outcomes.join([part, part]).ranks.tolist()
        [3, 3]
        """
        ranks, predictions, lists = zip(*((part.ranks, part.predictions, part.lists) for part in parts), strict=True)
        return cls(
            np.concatenate(ranks),
            None if predictions[0] is None else np.concatenate(predictions),
            None if lists[0] is None else np.concatenate(lists),
        )

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Return (n,) which events were scored."""
        return np.asarray((self.ranks >= 0) | (self.ranks == Core.NON_FINITE))


class Run(Protocol):
    """A model on its way through a stream."""

    def chunk(self, begin: int, end: int) -> tuple[Outcomes, float]:
        """Judge and learn the next events, none or all of them in the warm-up; return the seconds it took, too."""

    def finish(self) -> float:
        """Learn what is still kept back; return the seconds it took."""

    def abandon(self) -> None:
        """Leave a stream that was not finished."""


def predicts(model: Any) -> bool:
    """Return whether a model says something about labels.

    Parameters
    ----------
    model
        One of fastinc's, or any object: then by whether it has a method `predict`.

    Returns
    -------
    bool
        Whether it does.

    Examples
    --------
    >>> from fastinc.baselines import Popularity
    >>> predicts(Popularity())
    False
    """
    if isinstance(model, StreamModel):
        return model._core.prediction is not None
    return callable(getattr(model, "predict", None))


def start(model: StreamModel | ListModel, stream: Stream, asked: Asked) -> Run:
    """Return a run of a model from the stream's beginning.

    Parameters
    ----------
    model
        The model, which is trained in place.
    stream
        The events.
    asked
        What to find out. A model without predictions predicts none.

    Returns
    -------
    Run
        The run.

    Examples
    --------
    >>> import fastinc as fi
    >>> stream = Stream.of(fi.datasets.Events(users=[1, 2, 1], items=[5, 6, 6]), warm_up=0)
    >>> start(fi.baselines.Popularity(), stream, Asked(True, 0.0, False, 0, 10)).chunk(0, 3)[0].ranks.tolist()
    [-3, -3, 1]
    """
    return (_EngineRun if isinstance(model, StreamModel) else _ListRun)(model, stream, asked)  # type: ignore[arg-type]


class _EngineRun:
    """One of fastinc's models: the engine ranks all candidates."""

    def __init__(self, model: StreamModel, stream: Stream, asked: Asked) -> None:
        self._model = model
        self._stream = stream
        self._asked = asked
        self._predict = asked.predict and predicts(model)
        self._run = Core(stream.warm_up, asked.exclude_seen, asked.delay)
        self._known = len(model._user_ids), len(model._item_ids)
        self._stream_codes = np.empty(0, dtype=np.int32)  # by the model's codes of items

    def chunk(self, begin: int, end: int) -> tuple[Outcomes, float]:
        events = self._stream.events[begin:end]
        # Chunk by chunk, so that after an interruption the model knows no ids that it has not learned about.
        targets = None if events.labels is None else (events.labels > 0).astype(np.uint8)
        predictions = np.empty(end - begin, dtype=np.float32) if self._predict else None
        k = self._asked.list_size
        lists = np.empty((end - begin, k), dtype=np.int32) if k else None
        with self._model._adding_ids():
            users, items, labels, times = self._model._encode_events(events)
            started = time.perf_counter()
            ranks = self._run.run(self._model._core, users, items, labels, times, targets, predictions, lists)
            spent = time.perf_counter() - started
        outcomes = Outcomes(ranks, predictions, lists)
        if lists is not None:
            outcomes = Outcomes(ranks, predictions, self._of_stream(lists[outcomes.scored], items, begin))
        return outcomes, spent

    def _of_stream(self, lists: Ints, items: npt.NDArray[np.int64], begin: int) -> Ints:
        """Return lists of the model's codes as those of the stream: a model may have learned others before."""
        size = int(items.max(initial=-1)) + 1
        if size > len(self._stream_codes):
            more = np.full(2 * size - len(self._stream_codes), -1, dtype=np.int32)
            self._stream_codes = np.concatenate([self._stream_codes, more])
        self._stream_codes[items] = self._stream.items[begin : begin + len(items)]
        return np.where(lists >= 0, self._stream_codes[lists], -1).astype(np.int32)

    def finish(self) -> float:
        started = time.perf_counter()
        self._run.finish(self._model._core)
        return time.perf_counter() - started

    def abandon(self) -> None:
        self._model._forget_unlearned_ids(*self._known)  # those of events that the delay kept back


class _ListRun:
    """Any other model: the rank is the place in the list that it recommends."""

    def __init__(self, model: ListModel, stream: Stream, asked: Asked) -> None:
        self._model = model
        self._stream = stream
        self._asked = asked
        self._predict = asked.predict and predicts(model)
        times = stream.events.timestamps
        self._due = None if not asked.delay or times is None else times + asked.delay
        self._learned = 0
        self._first: dict[Any, int] = {}  # item -> where it came first
        self._had: dict[Any, set[Any]] = {}
        self._kept_back: dict[Any, list[Any]] = {}  # user -> items of events not learned yet, in order

    def chunk(self, begin: int, end: int) -> tuple[Outcomes, float]:
        ranks = np.full(end - begin, Core.WARM_UP, dtype=np.int32)
        predictions = np.full(end - begin, np.nan, dtype=np.float32) if self._predict else None
        lists = np.full((end - begin, self._asked.list_size), -1, dtype=np.int32)
        started = time.perf_counter()
        for i in range(begin, end) if begin >= self._stream.warm_up else ():
            self._learn_due(i, i)
            if predictions is not None:
                predictions[i - begin] = self._predicted(i)
            ranks[i - begin] = self._judge(i, lists[i - begin])
            self._note(i)
            self._learn_due(i, i + 1)
        if end <= self._stream.warm_up:
            for i in range(begin, end):
                self._note(i)
            self._learn_due(end - 1, end)
        spent = time.perf_counter() - started
        outcomes = Outcomes(ranks, predictions, None)
        if self._asked.list_size:
            outcomes = Outcomes(ranks, predictions, lists[outcomes.scored])
        return outcomes, spent

    def finish(self) -> float:
        started = time.perf_counter()
        self._learn(len(self._stream))
        return time.perf_counter() - started

    def abandon(self) -> None:
        pass

    def _learn_due(self, now: int, end: int) -> None:
        """Learn events before `end` that are known at the time of event `now`: without a delay, all of them."""
        if self._due is not None:
            assert self._stream.events.timestamps is not None
            at = self._stream.events.timestamps[now]
            end = min(end, int(np.searchsorted(self._due, at, side="right")))
        self._learn(end)

    def _learn(self, end: int) -> None:
        if end <= self._learned:
            return
        events = self._stream.events[self._learned : end]
        labels = events.labels if getattr(self._model, "uses_labels", True) else None
        self._model.partial_fit(events.users, events.items, labels=labels, timestamps=events.timestamps)
        self._learned = end
        if self._due is not None:
            for user in events.users.tolist():
                self._kept_back[user].pop(0)

    def _note(self, i: int) -> None:
        user, item = self._event(i)
        self._first.setdefault(item, i)
        self._had.setdefault(user, set()).add(item)
        if self._due is not None:
            self._kept_back.setdefault(user, []).append(item)

    def _event(self, i: int) -> tuple[Any, Any]:
        return self._stream.events.users[i].item(), self._stream.events.items[i].item()

    def _time(self, i: int) -> float | None:
        times = self._stream.events.timestamps
        return None if times is None else float(times[i])

    def _predicted(self, i: int) -> float:
        users, items = self._stream.events.users[i : i + 1], self._stream.events.items[i : i + 1]
        predicted = self._model.predict(users, items, at=self._time(i))  # type: ignore[attr-defined]
        return float(np.asarray(predicted, dtype=np.float64).reshape(-1)[0])

    def _judge(self, i: int, row: Ints) -> int:
        """Return what becomes of an event, and fill a row with the list given for it."""
        user, item = self._event(i)
        labels = self._stream.events.labels
        if labels is not None and labels[i] <= 0:
            return Core.NOT_TARGET
        if user not in self._had:
            return Core.NO_HISTORY
        known = item in self._first
        if not known and not len(row):
            return Core.NEW_ITEM
        if known and self._asked.exclude_seen and item in self._had[user]:
            return Core.REPEAT
        ids, scores = self._recommended(i, user)
        if len(ids) != len(scores):
            raise ValueError(f"recommend must give as many ids as scores, got {len(ids)} and {len(scores)}")
        finite = not (np.isnan(scores).any() or np.isposinf(scores).any())
        # Entries with -inf fill a list up and are nobody's.
        filled = zip(ids.tolist(), scores.tolist(), strict=True) if finite else ()
        offered = [offer if score > -np.inf else None for offer, score in filled]
        codes = [self._stream.items[self._first[offer]] for offer in offered if offer in self._first]
        row[: len(codes)] = codes[: len(row)]
        if not known:
            return Core.NEW_ITEM
        if not finite:
            return Core.NON_FINITE
        if item in offered:
            return offered.index(item) + 1
        return _BEYOND if self._first[item] < self._learned else Core.NEW_ITEM

    def _recommended(self, i: int, user: Any) -> tuple[Columns, npt.NDArray[np.float64]]:
        k, at, exclude_seen = self._asked.longest, self._time(i), self._asked.exclude_seen
        kept_back = set(self._kept_back.get(user, ())) if exclude_seen else set()
        users = self._stream.events.users[i : i + 1]
        # The user had these, which the model cannot know yet: they leave the list, and more come after.
        answer = self._model.recommend(users, k=k + len(kept_back), at=at, exclude_seen=exclude_seen)
        ids, scores = np.asarray(answer[0]).reshape(-1), np.asarray(answer[1], dtype=np.float64).reshape(-1)
        if kept_back and len(ids) == len(scores):
            stays = np.array([item not in kept_back for item in ids.tolist()], dtype=bool)
            ids, scores = ids[stays][:k], scores[stays][:k]
        return ids, scores

"""What every model that learns from an event stream shares: ids, checks, partial_fit and recommend."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastinc import _core
from fastinc._arguments import as_flag, as_number, as_numeric, as_whole
from fastinc._ids import IdMap

if TYPE_CHECKING:
    from typing_extensions import Self

    from fastinc.datasets import Events

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32] | None, NDArray[np.float64] | None]


#: Events learned between two looks for Ctrl-C; cuts are at its multiples, where no group of events is cut.
_PART = 16_384
_LEAST, _MOST = -(2**63), 2**63 - 1


def _as_column(values: Any, name: str, n: int, dtype: type[np.floating[Any]]) -> NDArray[Any] | None:
    if values is None:
        return None
    array = as_numeric(values, name)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}; users has {n} events")
    with np.errstate(over="ignore"):  # what doesn't fit becomes infinite, and is named below
        column = np.ascontiguousarray(array, dtype=dtype)
    finite = np.isfinite(column)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(f"{name}[{first}] = {array[first]} is not finite")
    return column


def _request_time(at: float | None) -> float:
    if at is None:
        return math.nan
    time = as_number(at, "at")
    if not math.isfinite(time):
        raise ValueError(f"at = {at} is not finite")
    return time


def _as_list(exclude: Any) -> Any:
    if exclude is None:
        return []
    if isinstance(exclude, (set, frozenset, range)):
        return list(exclude)
    return [exclude] if np.ndim(exclude) == 0 else exclude


class StreamModel:
    """Base of models over (user, item, label, timestamp) events; `core` is the engine's part."""

    #: Whether learning uses labels; if not, passing labels raises.
    uses_labels: bool = False

    def __init__(self, core: _core.StreamModel) -> None:
        self._core = core
        self._user_ids = IdMap("users")
        self._item_ids = IdMap("items")
        self._learning = threading.Lock()  # ids are added and learned by one thread at a time

    def _encode_columns(self, users: Any, items: Any, labels: Any, timestamps: Any) -> Columns:
        """Check everything, then add ids to the maps: a refused batch leaves them as they were."""
        users, items = self._user_ids.check(users), self._item_ids.check(items)
        users, items, label_column, time_column = self._check_columns(users, items, labels, timestamps)
        return (
            self._user_ids.encode(users, add=True),
            self._item_ids.encode(items, add=True),
            label_column,
            time_column,
        )

    def _check_labels(self, labels: NDArray[np.float32] | None, n: int) -> None:
        if labels is not None and not self.uses_labels:
            raise ValueError(
                f"labels: {type(self).__name__} learns from events that happened; leave labels out "
                "(and drop events that aren't positive)"
            )

    def _checked(self, users: Any, items: Any, labels: Any, timestamps: Any) -> tuple[Any, Any, Any, Any]:
        """Return the columns of events as arrays, or raise what `partial_fit` would; nothing is learned."""
        users, items = self._user_ids.check(users), self._item_ids.check(items)
        return self._check_columns(users, items, labels, timestamps)

    def _learn(self, users: Any, items: Any, labels: Any, timestamps: Any) -> None:
        """Check everything, then learn in parts: Ctrl-C gets in between, and what fails leaves no unlearned ids."""
        columns = self._checked(users, items, labels, timestamps)
        users = columns[0]
        begin = 0
        while begin < len(users):
            part = slice(begin, begin + _PART - self._core.event_count % _PART)
            begin = part.stop
            with self._adding_ids():
                self._core.partial_fit(*self._encode_columns(*(None if c is None else c[part] for c in columns)))

    def _learn_one(self, user: int, item: int, time: Any) -> bool:
        """Learn one event the short way; False where something about it is for the long one to check."""
        time = 0.0 if time is None else time
        if type(time) is not float or not math.isfinite(time) or self.uses_labels:
            return False
        if self._user_ids.kind != "int" or self._item_ids.kind != "int":
            return False
        if not (_LEAST <= user <= _MOST and _LEAST <= item <= _MOST):
            return False
        with self._learning:
            self._core.learn_one(self._user_ids._core, self._item_ids._core, user, item, time)
        return True

    @contextlib.contextmanager
    def _adding_ids(self) -> Iterator[None]:
        """Alone with the id maps; what fails inside leaves no ids that were not learned."""
        with self._learning:
            known = len(self._user_ids), len(self._item_ids)
            try:
                yield
            except BaseException:
                self._forget_unlearned_ids(*known)
                raise

    def _forget_unlearned_ids(self, users: int, items: int) -> None:
        """Forget ids that nothing was learned of, but not the first ones."""
        self._user_ids.truncate(max(users, self._core.user_count))
        self._item_ids.truncate(max(items, self._core.item_count))

    def _check_columns(self, users: Any, items: Any, labels: Any, timestamps: Any) -> tuple[Any, Any, Any, Any]:
        if len(users) != len(items):
            raise ValueError(f"items has length {len(items)}; users has {len(users)}")
        label_column = _as_column(labels, "labels", len(users), np.float32)
        time_column = _as_column(timestamps, "timestamps", len(users), np.float64)
        self._check_labels(label_column, len(users))
        self._user_ids.encode(users, add=False)  # refuses what isn't UTF-8
        self._item_ids.encode(items, add=False)
        return users, items, label_column, time_column

    def _encode_events(self, events: Events) -> Columns:
        """Columns of a :class:`fastinc.datasets.Events`, labels only if this model uses them."""
        labels = events.labels if self.uses_labels else None
        return self._encode_columns(events.users, events.items, labels, events.timestamps)

    def partial_fit(self, users: Any, items: Any, labels: Any = None, timestamps: Any = None) -> Self:
        """Learn events in the order given, one or a million; each event sees the history of all before it.

        Nothing is sorted here: ``events.sorted()`` of :class:`fastinc.datasets.Events` sorts by time.

        Parameters
        ----------
        users, items
            (n,) int64 or str ids; a single id is one event. One kind of id per model.
        labels
            (n,) numbers, for models that use labels; None otherwise.
        timestamps
            (n,) seconds (not milliseconds), any origin. The latest one is the clock that :meth:`recommend` goes by
            unless told otherwise. None: these events happened at 0.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A wrong length, dtype or value; nothing has been learned.
        """
        if labels is None and type(users) is type(items) is int and self._learn_one(users, items, timestamps):
            return self
        if np.ndim(users) == 0 and np.ndim(items) == 0:
            users, items = [users], [items]
            labels = None if labels is None else np.atleast_1d(labels)
            timestamps = None if timestamps is None else np.atleast_1d(timestamps)
        self._learn(users, items, labels, timestamps)
        return self

    def partial_fit_events(self, events: Events) -> Self:
        """Learn a :class:`fastinc.datasets.Events` in order, with its labels only if this model uses labels.

        Parameters
        ----------
        events
            Columns of events, in the order to learn them (``events.sorted()`` sorts by time).

        Returns
        -------
        self

        Examples
        --------
        >>> import fastinc as fi
        >>> events = fi.datasets.synthetic(500, n_users=50, n_items=100)
        >>> fi.Recommender().partial_fit_events(events).n_events
        500
        """
        labels = events.labels if self.uses_labels else None
        self._learn(events.users, events.items, labels, events.timestamps)
        return self

    def recommend(
        self,
        users: Any,
        k: int = 10,
        at: float | None = None,
        exclude_seen: bool = True,
        exclude: Any = None,
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return the k best items for each user, best first.

        A user never seen gets the list of a user without history. Nothing is learned or allocated.

        Parameters
        ----------
        users
            (n,) int64 or str ids, or one id.
        k
            Items per user, >= 1.
        at
            Request time in seconds; default the latest event's.
        exclude_seen
            Leave out the user's own items (the history the model keeps).
        exclude
            Item ids nobody gets; unknown ones are ignored.

        Returns
        -------
        ids
            (n, k) item ids, padded with -1 (or "") where fewer exist; (k,) for one user.
        scores
            (n, k) float32, padded with -inf; (k,) for one user.
        """
        return self._recommended(users, k, at, exclude_seen, exclude, self._core.recommend)

    def _recommended(
        self, users: Any, k: int, at: float | None, exclude_seen: bool, exclude: Any, recommend: Callable[..., Any]
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        k = as_whole(k, "k", 1)
        as_flag(exclude_seen, "exclude_seen")
        single = np.ndim(users) == 0
        codes = self._user_ids.encode([users] if single else users, add=False)
        excluded = self._item_ids.encode(_as_list(exclude), add=False, name="exclude")
        items, scores = recommend(codes, k, _request_time(at), exclude_seen, excluded)
        ids = self._item_ids.decode(items)
        return (ids[0], scores[0]) if single else (ids, scores)

    @property
    def n_users(self) -> int:
        """Users seen."""
        return self._core.user_count

    @property
    def n_items(self) -> int:
        """Items known: seen, or added."""
        return self._core.item_count

    @property
    def n_events(self) -> int:
        """Events learned."""
        return self._core.event_count

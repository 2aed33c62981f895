"""A synthetic stream with known causes: tastes, popularity, sessions, newcomers and drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastinc.datasets.events import Events

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Drift = Literal["none", "gradual", "abrupt"]

_START = 1_600_000_000  # seconds
SPAN = 90 * 86_400  # seconds
_MEAN_SESSION = 8  # events
_MAX_SESSION = 32  # events
_MEAN_GAP = 60.0  # seconds within a session
_ZIPF = 0.7  # popularity of the item of rank r: r ** -_ZIPF
_ACTIVITY = 0.5  # sigma of the log-normal activity of users
_TASTE = 3.0  # weight of the user's lasting taste in a choice
_MOOD = 3.0  # weight of the session's mood
_USERS_AT_START = 0.3
_ITEMS_AT_START = 0.6
_LAST_ARRIVAL = 0.9  # of the span
_CHUNK = 1 << 22  # scores in memory at once


def synthetic(
    n_events: int = 100_000,
    n_users: int = 1000,
    n_items: int = 2000,
    *,
    dim: int = 16,
    drift: Drift = "none",
    drift_at: float = 0.5,
    seed: int = 0,
    labels: bool = False,
) -> Events:
    """Make a seeded stream of events in the order of time, with drift if wanted.

    The generator, so that results can be interpreted:

    - *Vectors.* Users have a taste u, items a vector v, both N(0, 1/dim) in each of `dim` components.
    - *Arrivals.* 30 % of the users and 60 % of the items are there from the start; the others arrive at times
      uniform in the first 90 % of the 90 days that the stream spans. Ids do not tell who came first.
    - *Popularity.* Item j, of random rank r_j from 1, has weight p_j = r_j ** -0.7.
    - *Sessions.* They begin at uniform times, have a geometric number of events (mean 8, at most 32, and at
      most a quarter of the items) and belong to a user drawn from those who have arrived, with log-normal
      activity (sigma 0.5). Events follow each other after 1 s plus an exponential gap of mean 60 s, in whole
      seconds; so sessions of different users overlap, and timestamps can be equal. Each session has a mood
      s ~ N(0, 1/dim): what the user took a moment ago tells more than what he took last week.
    - *Choice.* A session takes items without replacement with probability proportional to
      p_j · exp(sqrt(dim) · <3 u + 3 s, v_j>), among the items that have arrived and that the user has not
      taken before (only a user who has taken all of them takes one again).
    - *Drift.* Each user has a second taste w, drawn like the first. ``"abrupt"``: u becomes w at `drift_at`.
      ``"gradual"``: from `drift_at` to the end u is cos(a) u + sin(a) w, with a growing linearly from 0 to
      π/2. A session keeps the taste of its beginning. Before `drift_at` the three kinds of drift give the
      same events.
    - *Labels.* 2.2 + 1.1 sqrt(dim) <u, v_j> + N(0, 0.5²), rounded to 1, 2, ..., 5: ratings follow the lasting
      taste, and the mood does not matter to them. They do not change which events there are.

    The cost grows with n_events · n_items. The same arguments give the same bytes with the same NumPy on the
    same kind of machine.

    Parameters
    ----------
    n_events, n_users, n_items
        How many there are; of users and items, at most. n_items must be at least 8 and n_events at most a
        quarter of n_users · n_items, or users would run out of items.
    dim
        The dimension of the hidden vectors.
    drift
        ``"none"``, ``"gradual"`` or ``"abrupt"``.
    drift_at
        When drift begins, as a fraction of the time, strictly between 0 and 1; of no effect without drift.
    seed
        Seeds everything.
    labels
        Whether to make ratings.

    Returns
    -------
    Events
        Ids are int64 from 0; timestamps are seconds.

    Examples
    --------
    >>> events = synthetic(1000, 50, 100, drift="abrupt", seed=7)
    >>> events
    Events('synthetic (abrupt drift)', 1000 events, timestamps)
    """
    _check(n_events, n_users, n_items, dim, drift, drift_at, seed)
    streams = dict(zip(_STREAMS, np.random.SeedSequence(seed).spawn(len(_STREAMS)), strict=True))
    rng = {name: np.random.Generator(np.random.PCG64(stream)) for name, stream in streams.items()}
    users = _arrivals(rng["users"], n_users, _USERS_AT_START)
    items = _arrivals(rng["items"], n_items, _ITEMS_AT_START)
    sessions = _sessions(rng["sessions"], n_events, users, min(_MAX_SESSION, n_items // 4))
    tastes, later, vectors, moods = (
        rng[name].normal(0.0, dim**-0.5, (count, dim))
        for name, count in (
            ("tastes", n_users),
            ("later", n_users),
            ("vectors", n_items),
            ("moods", len(sessions)),
        )
    )
    angle = _angle(sessions.start, drift, drift_at)[:, None]
    taste = np.cos(angle) * tastes[sessions.user] + np.sin(angle) * later[sessions.user]
    popularity = -_ZIPF * np.log(rng["popularity"].permutation(n_items) + 1.0)
    known = np.searchsorted(items, sessions.start, side="right")
    queries = dim**0.5 * (_TASTE * taste + _MOOD * moods)
    chosen = _choose(rng["choices"], sessions, queries, vectors, popularity, known)

    session = np.repeat(np.arange(len(sessions)), sessions.length)
    gaps = 1.0 + np.floor(rng["gaps"].exponential(_MEAN_GAP, n_events))
    elapsed = np.cumsum(gaps)
    elapsed -= np.repeat(elapsed[sessions.first], sessions.length)
    times = _START + np.floor(sessions.start[session] * SPAN) + elapsed
    order = np.argsort(times, kind="stable")
    ratings = None
    if labels:
        liking = dim**0.5 * np.einsum("ij,ij->i", taste[session], vectors[chosen])
        noise = rng["labels"].normal(0.0, 0.5, n_events)
        ratings = np.clip(np.rint(2.2 + 1.1 * liking + noise), 1, 5).astype(np.float32)[order]
    user_ids = rng["ids"].permutation(n_users)
    item_ids = rng["ids"].permutation(n_items)
    return Events(
        users=user_ids[sessions.user[session]][order],
        items=item_ids[chosen][order],
        labels=ratings,
        timestamps=times[order],
        name="synthetic" if drift == "none" else f"synthetic ({drift} drift)",
        source=f"synthetic({n_events}, {n_users}, {n_items}, dim={dim}, drift={drift!r}, "
        f"drift_at={drift_at}, seed={seed}, labels={labels})",
    )


# Each has random numbers of its own, so that a change to one part leaves the others as they were.
_STREAMS = (
    *("users", "items", "sessions", "tastes", "later", "vectors"),
    *("moods", "popularity", "choices", "gaps", "labels", "ids"),
)


@dataclass(frozen=True)
class _Sessions:
    """Sessions in the order of their start, a fraction of the span; users and items in order of arrival."""

    user: Ints
    start: Floats
    length: Ints
    first: Ints  # the position of the first event of each

    def __len__(self) -> int:
        return len(self.user)


def _check(n_events: int, n_users: int, n_items: int, dim: int, drift: Any, drift_at: float, seed: int) -> None:
    least = {"n_events": (n_events, 1), "n_users": (n_users, 1), "n_items": (n_items, 8), "dim": (dim, 1)}
    for name, (value, minimum) in {**least, "seed": (seed, 0)}.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if n_events > n_users * n_items // 4:
        raise ValueError(f"n_events must be at most n_users * n_items / 4 = {n_users * n_items // 4}, got {n_events}")
    if drift not in ("none", "gradual", "abrupt"):
        raise ValueError(f"drift must be 'none', 'gradual' or 'abrupt', got {drift!r}")
    if not 0.0 < drift_at < 1.0:
        raise ValueError(f"drift_at must be between 0 and 1, got {drift_at}")


def _arrivals(rng: np.random.Generator, n: int, at_start: float) -> Floats:
    """Return the sorted times of arrival, fractions of the span."""
    times = rng.uniform(0.0, _LAST_ARRIVAL, n)
    times[: max(1, round(at_start * n))] = 0.0
    return np.sort(times)


def _sessions(rng: np.random.Generator, n_events: int, users: Floats, longest: int) -> _Sessions:
    # Every session has an event, so n_events of them are always enough.
    lengths = np.minimum(rng.geometric(1.0 / min(_MEAN_SESSION, longest), n_events), longest)
    ends = np.cumsum(lengths)
    n = int(np.searchsorted(ends, n_events)) + 1
    lengths = lengths[:n]
    lengths[-1] -= ends[n - 1] - n_events
    start = np.sort(rng.uniform(0.0, 1.0, n))
    weight = np.cumsum(rng.lognormal(0.0, _ACTIVITY, len(users)))
    here = np.searchsorted(users, start, side="right")
    drawn = rng.uniform(0.0, 1.0, n) * weight[here - 1]
    user = np.minimum(np.searchsorted(weight, drawn, side="right"), here - 1)
    return _Sessions(user, start, lengths, np.cumsum(lengths) - lengths)


def _angle(start: Floats, drift: Drift, drift_at: float) -> Floats:
    """Return how far tastes have turned from the first to the second, 0 to π/2."""
    if drift == "none":
        return np.zeros_like(start)
    if drift == "abrupt":
        return np.where(start >= drift_at, np.pi / 2, 0.0)
    return np.clip((start - drift_at) / (1.0 - drift_at), 0.0, 1.0) * (np.pi / 2)


def _choose(
    rng: np.random.Generator,
    sessions: _Sessions,
    queries: Floats,
    vectors: Floats,
    popularity: Floats,
    known: Ints,
) -> Ints:
    """Return the item of every event, session by session.

    A user's sessions depend on each other (an item is taken once), those of different users do not: so the
    first sessions of all users are drawn together, then the second ones, and so on.
    """
    n_items = len(vectors)
    chosen = np.zeros(int(sessions.length.sum()), dtype=np.int64)
    by_user = np.argsort(sessions.user, kind="stable")
    begin = np.searchsorted(sessions.user[by_user], sessions.user[by_user])
    ordinal = np.empty(len(sessions), dtype=np.int64)
    ordinal[by_user] = np.arange(len(sessions)) - begin
    histories: list[list[Ints]] = [[] for _ in range(int(sessions.user.max()) + 1)]
    by_ordinal = np.argsort(ordinal, kind="stable")
    bounds = np.flatnonzero(np.diff(ordinal[by_ordinal])) + 1
    most = max(1, _CHUNK // n_items)
    for group in np.split(by_ordinal, bounds):
        for low in range(0, len(group), most):
            rows = group[low : low + most]
            scores = queries[rows] @ vectors.T + popularity
            # An exponential race: the item whose E / weight is least comes first, the second least next, ...
            race = rng.standard_exponential((len(rows), n_items), dtype=np.float32)
            race = np.log(np.maximum(race, np.finfo(np.float32).tiny)) - scores
            race[np.arange(n_items) >= known[rows, None]] = np.inf
            for row, session in zip(race, rows, strict=True):
                history = histories[sessions.user[session]]
                for taken in history:
                    row[taken] += 1e6  # behind all others, but before those that are not there yet
                length = sessions.length[session]
                best = np.argpartition(row, length - 1)[:length]
                best = best[np.argsort(row[best], kind="stable")]
                history.append(best)
                first = sessions.first[session]
                chosen[first : first + length] = best
    return chosen

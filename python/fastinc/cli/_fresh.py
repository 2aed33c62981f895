"""What ten fresh events do to a user's list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastinc.cli._console import Progress

if TYPE_CHECKING:
    import fastinc as fi
    from fastinc.datasets import Events

USERS = 3
FRESH = 10
LIST = 10
_BATCH = 5000  # events between two steps of the progress bar


@dataclass(frozen=True)
class Answer:
    """A list of items, best first: which were not in the list before, and which the user took later."""

    items: list[Any]
    new: list[bool]
    taken: list[bool]

    def to_dict(self, titles: Mapping[Any, str] | None) -> dict[str, Any]:
        """Return what JSON can hold."""
        names = [(titles or {}).get(item) for item in self.items]
        return {"items": self.items, "titles": names, "new": self.new, "taken_afterwards": self.taken}


@dataclass(frozen=True)
class Visit:
    """A user's list before and after fresh events."""

    user: Any
    learned: int  # events that the model had learned before
    history: int  # those of the user among them
    before: Answer
    fresh: list[Any]
    after: Answer

    def to_dict(self, titles: Mapping[Any, str] | None) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "user": self.user,
            "events_learned_before": self.learned,
            "events_of_the_user_before": self.history,
            "before": self.before.to_dict(titles),
            "fresh": {"items": self.fresh, "titles": [(titles or {}).get(item) for item in self.fresh]},
            "after": self.after.to_dict(titles),
        }


def watch(model: fi.Recommender, events: Events, *, seed: int, progress: Progress) -> list[Visit]:
    """Learn the stream by time in one pass, and visit three users in the middle of their histories.

    Users are drawn (seeded) from those with at least 10 events before the visit, 10 fresh ones and 10 later
    ones; a visit comes right before the event in the middle of the user's history. The model then knows
    exactly the events that came before, save that the fresh events of an earlier visit were learned ahead of
    others' that lay between them. So no list is made with knowledge of what it is to predict.
    """
    events = events.sorted()
    plan = sorted(_plan(events.users, np.random.default_rng(seed)), key=lambda own: int(own[len(own) // 2]))
    left = np.ones(len(events), dtype=bool)  # to be learned yet
    visits: list[Visit] = []
    begin = 0
    for own in plan:
        moment = int(own[len(own) // 2])
        for low in range(begin, moment, _BATCH):
            high = min(low + _BATCH, moment)
            _learn(model, events[low:high][left[low:high]])
            progress("three users", high, int(plan[-1][len(plan[-1]) // 2]))
        begin = moment
        learned = moment + int(np.count_nonzero(~left[moment:]))
        visits.append(_visit(model, events, own, learned))
        left[own[len(own) // 2 :][:FRESH]] = False
    return visits


def _plan(users: npt.NDArray[Any], rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Return the positions of all events of each of the users to visit."""
    order = np.argsort(users, kind="stable")
    bounds = np.flatnonzero(users[order][1:] != users[order][:-1]) + 1
    enough = [own for own in np.split(order, bounds) if len(own) // 2 >= FRESH and -(-len(own) // 2) >= 2 * FRESH]
    return [enough[i] for i in rng.permutation(len(enough))[:USERS]]


def _visit(model: fi.Recommender, events: Events, own: npt.NDArray[np.int64], learned: int) -> Visit:
    middle = len(own) // 2
    fresh, rest = events[own[middle : middle + FRESH]], events[own[middle + FRESH :]]
    before = _ask(model, fresh, 0)
    _learn(model, fresh)
    after = _ask(model, fresh, -1)
    return Visit(
        user=fresh.users[0].item(),
        learned=learned,
        history=middle,
        before=Answer(before, [False] * len(before), np.isin(before, events.items[own[middle:]]).tolist()),
        fresh=fresh.items.tolist(),
        after=Answer(after, [item not in before for item in after], np.isin(after, rest.items).tolist()),
    )


def _learn(model: fi.Recommender, events: Events) -> None:
    if len(events):
        model.partial_fit_events(events)


def _ask(model: fi.Recommender, fresh: Events, at: int) -> list[Any]:
    """Return the user's list at the time of one of the fresh events."""
    assert fresh.timestamps is not None
    ids, scores = model.recommend(fresh.users[:1], k=LIST, at=float(fresh.timestamps[at]))
    found: list[Any] = ids[0][scores[0] != -np.inf].tolist()  # the others are padding
    return found

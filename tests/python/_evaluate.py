"""What the tests of the evaluation share: streams, models that give lists, a run of one model alone."""

import numpy as np

import fastinc as fi


class Lists:
    """A model that is not fastinc's: it only has a name of its own and the two methods."""

    def __init__(self, model):
        self.model = model

    def partial_fit(self, users, items, labels=None, timestamps=None):
        self.model.partial_fit(users, items, labels, timestamps)

    def recommend(self, users, k=10, at=None, exclude_seen=True):
        return self.model.recommend(users, k=k, at=at, exclude_seen=exclude_seen)


class Scripted(Lists):
    """Gives the same list whatever it learns, and remembers how it was asked."""

    def __init__(self, ids, scores):
        self.answer = np.array([ids]), np.array([scores])
        self.learned, self.asked = [], []

    def partial_fit(self, users, items, labels=None, timestamps=None):
        self.learned.append((users.tolist(), items.tolist(), labels, timestamps))

    def recommend(self, users, k=10, at=None, exclude_seen=True):
        self.asked.append((users.tolist(), k, at, exclude_seen))
        return self.answer


def alone(model, events, **options):
    options = {"warmup": 0.0, "metrics": ["recall@10", "mrr@10"], **options}
    (result,) = fi.evaluate.prequential(model, events, baselines=False, **options).models.values()
    return result


def stream(users, items, **columns):
    return fi.datasets.Events(users=users, items=items, **columns)


def as_strings(events):
    """Return the same events with strings as ids."""
    return stream(
        events.users.astype(str),
        np.char.add("i", events.items.astype(str)),
        labels=events.labels,
        timestamps=events.timestamps,
    )


def codes(values):
    """Return codes in the order of first appearance, as int64."""
    first = {}
    return np.array([first.setdefault(value, len(first)) for value in values.tolist()], dtype=np.int64)

"""The baselines against short NumPy versions of their definitions, and their known figures on real events."""

import importlib.util

import numpy as np
import pytest

import fastinc as fi


class PopularityReference:
    def __init__(self, n_items):
        self.scores = np.zeros(n_items, dtype=np.float32)

    def learn(self, user, item, label=1.0):
        self.scores[item] += label > 0

    def score(self, user):
        return self.scores


class ItemKnnReference:
    """float32 sums in the order of the definition: results must be the same to the last bit."""

    def __init__(self, n_items, recency="uniform", history_size=1000):
        self.together = np.zeros((n_items, n_items), dtype=np.float32)
        self.users = np.zeros(n_items)
        self.histories = {}
        self.recency = recency
        self.history_size = history_size

    def weight(self, place):
        return np.float32(1) / np.float32(place if self.recency == "rank" else 1)

    def learn(self, user, item, label=1.0):
        if label <= 0:
            return
        history = self.histories.setdefault(user, [])  # most recent first
        if item not in history:
            for place, other in enumerate(history, start=1):
                if other not in history[: place - 1]:
                    self.together[other, item] += self.weight(place)
                    self.together[item, other] += self.weight(place)
            self.users[item] += 1
        history.insert(0, item)
        del history[self.history_size :]

    def score(self, user):
        with np.errstate(divide="ignore"):
            root = np.where(self.users > 0, 1 / np.sqrt(self.users), 0).astype(np.float32)
        scores = np.zeros(len(root), dtype=np.float32)
        for place, item in enumerate(self.histories.get(user, []), start=1):
            scores += self.weight(place) * root[item] * self.together[item]
        return scores * root


def model_scores(model, user, n_items):
    """Return the scores of items 0 .. n_items - 1; -inf for those the model doesn't know."""
    ids, scores = model.recommend(user, k=n_items, exclude_seen=False)
    out = np.full(n_items, -np.inf, dtype=np.float32)
    out[ids[scores > -np.inf]] = scores[scores > -np.inf]
    return out


def random_stream(seed, n_events, n_users, n_items, growing=False):
    rng = np.random.default_rng(seed)
    users = rng.integers(0, n_users, n_events)
    items = rng.integers(0, n_items, n_events)
    if growing:  # ever new items and users, and late the first items again: their few neighbours were once many
        front = 4 + np.arange(n_events) * (n_items - 4) // n_events
        users = np.arange(n_events) * n_users // n_events
        items = np.where(rng.random(n_events) < np.linspace(-0.6, 0.2, n_events), items % 4, front - 1 - items % 4)
    return users, items, rng.integers(-1, 4, n_events).astype(np.float32)


KNN = [
    ("uniform", 1000),
    ("rank", 1000),
    ("uniform", 3),
    ("rank", 1),
]


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize(("recency", "history_size"), KNN)
def test_item_knn_is_its_definition(recency, history_size, growing):
    n_items = 300 if growing else 25
    users, items, labels = random_stream(1, 1200, 60 if growing else 12, n_items, growing)
    model = fi.baselines.ItemKNN(recency=recency, history_size=history_size)
    reference = ItemKnnReference(n_items, recency, history_size)
    known = np.zeros(n_items, dtype=bool)
    for begin in range(0, len(users), 300):
        part = slice(begin, begin + 300)
        model.partial_fit(users[part], items[part], labels[part])
        for event in zip(users[part], items[part], labels[part], strict=True):
            reference.learn(*event)
        known[items[part]] = True
        for user in range(0, 60 if growing else 12, 5):
            expected = np.where(known, reference.score(user), -np.inf)
            np.testing.assert_array_equal(model_scores(model, user, n_items), expected)


def test_popularity_counts_positive_events():
    users, items, labels = random_stream(2, 500, 10, 20)
    model = fi.baselines.Popularity().partial_fit(users, items, labels)
    reference = PopularityReference(20)
    for event in zip(users, items, labels, strict=True):
        reference.learn(*event)
    np.testing.assert_array_equal(model_scores(model, 3, 20), reference.scores)
    np.testing.assert_array_equal(model_scores(model, 99, 20), reference.scores)  # the same to a new user


@pytest.mark.parametrize("make", [fi.baselines.Popularity, fi.baselines.ItemKNN])
def test_one_event_or_many_make_no_difference(make):
    users, items, labels = random_stream(3, 200, 8, 30)
    at_once = make().partial_fit(users, items, labels)
    one_by_one = make()
    for i in range(len(users)):
        one_by_one.partial_fit(users[i : i + 1], items[i : i + 1], labels[i : i + 1])
    for user in range(8):
        np.testing.assert_array_equal(model_scores(at_once, user, 30), model_scores(one_by_one, user, 30))


@pytest.mark.parametrize("make", [fi.baselines.Popularity, fi.baselines.ItemKNN])
def test_recommend_leaves_out_what_the_user_had(make):
    model = make().partial_fit(["a", "a", "b", "b", "b"], ["tea", "jam", "jam", "tea", "ham"])
    ids, scores = model.recommend("a", k=3)
    assert ids.tolist() == ["ham", "", ""]
    assert scores[0] > 0
    assert np.isneginf(scores[1:]).all()


def test_a_user_without_history_gets_a_list():
    model = fi.baselines.ItemKNN().partial_fit([1, 1], [5, 6])
    ids, scores = model.recommend(2, k=2)
    assert ids.tolist() == [5, 6]
    assert scores.tolist() == [0, 0]


@pytest.mark.parametrize("history_size", [0, -1, 1_000_001])
@pytest.mark.parametrize("make", [fi.baselines.Popularity, fi.baselines.ItemKNN])
def test_bad_history_sizes_are_named(make, history_size):
    with pytest.raises(ValueError, match=f"history_size must be from 1 to 1000000, got {history_size}"):
        make(history_size=history_size)


def test_other_bad_arguments_are_named():
    with pytest.raises(TypeError, match=r"history_size must be an int, got 2\.5"):
        fi.baselines.Popularity(history_size=2.5)
    with pytest.raises(ValueError, match="recency must be 'uniform' or 'rank', got 'time'"):
        fi.baselines.ItemKNN(recency="time")


@pytest.fixture(scope="module")
def ml_100k():
    """The test environment brings it: without it these tests fail rather than pass for nothing."""
    assert importlib.util.find_spec("recbole") is not None, "pip install --no-deps recbole==1.2.1"
    return fi.datasets.movielens("ml-100k")


def recall(model, events):
    result = fi.evaluate.prequential(model, events, metrics=["recall@10"], baselines=False)
    (only,) = result.models.values()
    return only.metrics["recall@10"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (fi.baselines.Popularity, 0.086),
        (fi.baselines.ItemKNN, 0.150),
        (lambda: fi.baselines.ItemKNN(recency="rank"), 0.180),
    ],
)
def test_figures_on_the_good_ratings_of_ml_100k(ml_100k, make, expected):
    estimate = recall(make(), ml_100k.filter(min_label=4))
    assert estimate.n == 43_570
    assert estimate.value == pytest.approx(expected, abs=0.0006)


def test_popularity_on_all_of_ml_100k(ml_100k):
    estimate = recall(fi.baselines.Popularity(), ml_100k)
    assert estimate.n == 79_272
    assert estimate.value == pytest.approx(0.076, abs=0.0006)

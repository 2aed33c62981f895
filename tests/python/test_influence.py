"""What one user may do to an item: max_influence, trusted_after, and an attack that they stand against."""

from __future__ import annotations

import numpy as np
import pytest

import fastinc as fi

N_USERS, N_ITEMS, PUSHES = 200, 300, 50
GUARD = {"max_influence": 3, "trusted_after": 1}


def model_of(**more):
    return fi.Recommender(**{"dim": 16, "negatives": 60, "seed": 1, "batch_size": 1, **more})


def rows(model):
    return model.item_table.lookup(range(model.n_items)).tobytes()


def test_events_beyond_it_are_remembered_and_not_learned():
    users, items, times = [1, 2, 1, 1, 1, 2], [10, 11, 10, 10, 10, 10], [0.0, 1, 2, 3, 4, 5]
    model = model_of(max_influence=2).partial_fit(users, items, timestamps=times)
    assert model.stats() == {"users": 2, "items": 2, "new_items": 1, "events": 6, "skipped": 0, "limited": 2}
    limited = model_of(max_influence=2).partial_fit(users[:5], items[:5], timestamps=times[:5])
    assert rows(limited) == rows(model_of().partial_fit(users[:3], items[:3], timestamps=times[:3]))
    assert sorted(limited.recommend(1, k=2)[0].tolist()) == [-1, 11]


def test_it_is_counted_within_the_window_and_by_user_and_item():
    model = model_of(max_influence=1, influence_window=10.0)
    model.partial_fit([1, 1, 1, 2], [10, 11, 10, 10], timestamps=[0.0, 1.0, 9.0, 9.5])
    assert model.stats()["limited"] == 1
    model.partial_fit(1, 10, timestamps=19.0)  # ten seconds after the one at 9
    assert model.stats()["limited"] == 1
    model.partial_fit([3] * 20, [12] * 20, timestamps=[30.0] * 20)  # in one group
    assert model.stats()["limited"] == 20


def test_newcomers_teach_nothing_until_they_had_other_items():
    users, items = [1, 1, 1, 1, 2, 1], [10, 10, 11, 12, 10, 10]
    learned = []
    model = model_of(trusted_after=2)
    for user, item in zip(users, items, strict=True):
        before = rows(model), model.stats()["limited"]
        model.partial_fit(user, item, timestamps=0.0)
        learned.append(model.stats()["limited"] == before[1])
        if not learned[-1]:
            assert rows(model)[: len(before[0])] == before[0]
    assert learned == [False, False, False, True, False, True]


def test_they_are_kept(tmp_path):
    model = model_of(max_influence=1, trusted_after=1).partial_fit([1, 1], [10, 10], timestamps=[0.0, 1.0])
    fi.checkpoint.save(model, tmp_path / "model")
    again, _ = fi.checkpoint.load(tmp_path / "model")
    assert again.stats() == model.stats()
    assert again.get_params() == model.get_params()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_influence": 0}, r"^max_influence = 0 must be at least 1"),
        ({"influence_window": 0.0}, r"^influence_window = 0 must be finite and > 0"),
        ({"influence_window": float("nan")}, r"^influence_window = nan must be finite"),
        ({"influence_window": float("inf")}, r"^influence_window = inf must be finite"),
        ({"max_influence": 11, "history_size": 10}, r"^max_influence = 11 must be at most history_size"),
        ({"trusted_after": -1}, r"^trusted_after = -1 must be at least 0"),
        ({"trusted_after": 10, "history_size": 10}, r"^trusted_after = 10 must be below history_size"),
    ],
)
def test_bad_limits(arguments, message):
    with pytest.raises(ValueError, match=message):
        fi.Recommender(**arguments)


@pytest.mark.parametrize("limit", [{"max_influence": 1}, {"trusted_after": 1}])
def test_labels_are_refused_beside_them(limit):
    model = fi.Recommender(8, "logistic", **limit)
    with pytest.raises(ValueError, match=r"^labels: max_influence and trusted_after go by"):
        model.partial_fit([1], [10], labels=[0.0])
    assert (model.n_events, model.n_users, model.n_items) == (0, 0, 0)
    assert model.partial_fit([1], [10]).n_events == 1


# --- the attack ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean():
    return fi.datasets.synthetic(12_000, N_USERS, N_ITEMS, seed=3).sorted()


def attacked(clean, target):
    """1 % of the users are shills: each pushes one item 50 times, spread over the last third of the stream."""
    rng = np.random.default_rng(5)
    shills = N_USERS // 100
    begin, end = clean.timestamps[len(clean) * 2 // 3], clean.timestamps[-1]
    users = np.repeat(10**6 + np.arange(shills), PUSHES)
    return fi.datasets.Events(
        users=np.concatenate([clean.users, users]),
        items=np.concatenate([clean.items, np.full(len(users), target)]),
        timestamps=np.concatenate([clean.timestamps, np.sort(rng.uniform(begin, end, len(users)))]),
    ).sorted()


def lists(events, seed, **more):
    """The lists of all honest users at the end."""
    model = fi.Recommender(dim=32, seed=seed, **more).partial_fit_events(events)
    return model.recommend(np.unique(events.users[events.users < 10**6]), k=10)[0]


def test_shills_gain_little_with_the_guard_on_and_much_without(clean):
    """By the item's share of honest users' slots. Seeds differ by a slot or two in 2,000, so rare items are many."""
    seeds = (1, 2)
    honest = [lists(clean, seed) for seed in seeds]
    items, counts = np.unique(np.concatenate(honest), return_counts=True)
    ranked = items[np.argsort(counts)]
    targets = ranked[len(items) // 3 : 2 * len(items) // 3 : 8]  # neither nobody's nor everybody's
    assert len(targets) >= 5
    slots = {"clean": 0, "unguarded": 0, "guarded": 0}
    for target in targets:
        events = attacked(clean, target)
        for seed, before in zip(seeds, honest, strict=True):
            slots["clean"] += int((before == target).sum())
            slots["unguarded"] += int((lists(events, seed) == target).sum())
            slots["guarded"] += int((lists(events, seed, **GUARD) == target).sum())
    assert slots["unguarded"] > 3 * slots["clean"]
    assert slots["guarded"] < 2 * slots["clean"]


def test_the_guard_costs_clean_data_little(clean):
    recall = {
        guarded: fi.evaluate.prequential(
            fi.Recommender(dim=32, seed=1, **(GUARD if guarded else {})), clean, ["recall@10"], baselines=False
        )
        .models["fastinc"]
        .metrics["recall@10"]
        .value
        for guarded in (False, True)
    }
    assert recall[True] >= 0.98 * recall[False]

"""Explanations: parts that add up to the score."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastinc as fi


@pytest.fixture(scope="module")
def events():
    return fi.datasets.synthetic(1500, 60, 120, seed=2)


def check(model, user, item, at=None):
    found = model.explain(user, item, at=at)
    expected = float(model.predict(user, item, at=at))
    if model.get_params()["loss"] == "logistic":
        expected = np.log(expected / (1 - expected))
    assert found.score == pytest.approx(expected, rel=1e-4, abs=1e-5)
    return found


@pytest.mark.parametrize("loss", ["softmax", "bpr", "logistic", "mse"])
@pytest.mark.parametrize("user", ["history", "vector", "both"])
@pytest.mark.parametrize("preset", ["quality", "fast"])
def test_the_parts_add_up_to_the_score(events, loss, user, preset):
    labels = np.linspace(0, 1, len(events), dtype=np.float32) if loss in ("logistic", "mse") else None
    model = fi.Recommender(16, loss, user, preset=preset, negatives=30)
    model.partial_fit(events.users, events.items, labels, events.timestamps)
    for who in [*events.users[:5], 10**6]:
        for what in events.items[:5]:
            check(model, who, what)
            check(model, who, what, at=float(events.timestamps[-1]) + 500.0)


def test_every_past_item_that_counts_has_its_share(events):
    model = fi.Recommender(16).partial_fit_events(events)
    user = events.users[0]
    mine = events.items[events.users == user][::-1]
    found = check(model, user, events.items[1])
    past = [item for item, _ in found.items]
    assert past == list(dict.fromkeys(mine.tolist()))[: len(past)]
    assert len(past) == min(100, len(set(mine.tolist())))
    shares = [share for _, share in found.items]
    assert found.top(2) == tuple(sorted(found.items, key=lambda pair: -pair[1])[:2])
    assert np.abs(shares).min() > 0
    assert found.user == 0.0
    assert found.situation != 0.0
    assert found.network != 0.0


def test_shares_of_a_sum_by_hand():
    """Without a network a share is what the score loses when the item's vectors are 0."""
    model = fi.Recommender(8, preset="fast", situations=False, batch_size=1)
    model.partial_fit([1, 1, 2, 1, 2], [10, 11, 12, 13, 10], timestamps=[0.0, 50.0, 60.0, 90.0, 100.0])
    found = check(model, 1, 12, at=120.0)
    vectors = model.item_table.lookup(range(model.n_items)).astype(np.float64)
    long_terms = np.empty((model.n_items, 8), np.float32)
    model._core.tables["long_terms"].lookup(np.arange(model.n_items), long_terms)
    target = vectors[2]
    assert [item for item, _ in found.items] == [13, 11, 10]
    for rank, ((item, share), then) in enumerate(zip(found.items, (90.0, 50.0, 0.0), strict=True), start=1):
        code = int(model.item_codes([item])[0])
        weight = rank**-0.7 / (1 + (120.0 - then) / 120.0)
        direct = weight * vectors[code, :8] @ target[:8]
        lasting = 0.5 / np.sqrt(3) * long_terms[code].astype(np.float64) @ target[:8]
        assert share == pytest.approx(direct + lasting, rel=1e-5)
    assert found.bias == pytest.approx(target[8])
    assert (found.situation, found.user, found.network, found.offset) == (0.0, 0.0, 0.0, 0.0)


def test_an_unknown_item_has_no_parts(events):
    model = fi.Recommender(8, "mse").partial_fit(events.users, events.items, np.ones(len(events)), events.timestamps)
    found = model.explain(events.users[0], 10**9)
    assert (found.items, found.score) == ((), found.offset)
    assert json.loads(json.dumps(found.to_dict()))["score"] == found.score


def test_strings_are_named(tmp_path):
    model = fi.Recommender(8).partial_fit(["ann", "ann", "bob"], ["tea", "milk", "cup"])
    assert [item for item, _ in model.explain("ann", "cup").items] == ["milk", "tea"]


def test_the_command_says_why(tmp_path, capsys):
    from fastinc.cli import main

    model = fi.Recommender(8, "mse").partial_fit([1, 1, 2, 2], [10, 11, 10, 12], [5.0, 4.0, 3.0, 5.0])
    fi.checkpoint.save(model, tmp_path / "model")
    assert main(["recommend", "--model", str(tmp_path / "model"), "--user", "1", "-k", "1", "--explain"]) == 0
    _, listed, why = capsys.readouterr().out.splitlines()
    item, score = listed.split()[1:]
    shares = {}
    for part in why.strip().split(", "):
        *name, share = part.split()
        shares[" ".join(name)] = float(share)
    assert set(shares) == {"11", "10", "bias", "the rest"}
    assert item == "12"
    assert sum(shares.values()) == pytest.approx(float(score), abs=0.025)
    assert main(["recommend", "--model", str(tmp_path / "model"), "--user", "1", "--explain", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["explanations"][0]["score"] == pytest.approx(model.predict(1, 12), rel=1e-5)

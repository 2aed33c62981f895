"""Item features: what they become, what is refused, and what comes back from a checkpoint."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import fastinc as fi
from fastinc.features import Categorical, Dense, ItemFeatures


def bucket(text, buckets):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % buckets


SCHEMA = {"title": Dense(2), "genre": Categorical(10), "cover": Dense(1), "cast": Categorical(100)}


def test_numbers_and_buckets_stand_in_the_order_of_the_schema():
    numbers, offsets, buckets = ItemFeatures(SCHEMA).encode(
        {"cast": [[7, "ann"], None, "bob"], "cover": [[3.0], [6], [9]], "title": np.arange(6).reshape(3, 2)}, 3
    )
    assert numbers.tolist() == [[0, 1, 3], [2, 3, 6], [4, 5, 9]]
    assert numbers.dtype == np.float32
    assert offsets.tolist() == [0, 2, 2, 3]
    assert buckets.tolist() == [*sorted([10 + bucket("i7", 100), 10 + bucket("sann", 100)]), 10 + bucket("sbob", 100)]
    numbers, offsets, buckets = ItemFeatures(SCHEMA).encode({"genre": [("a", "b"), "a"]}, 2)
    assert numbers.tolist() == [[0, 0, 0]] * 2
    assert buckets.tolist() == [*sorted([bucket("sa", 10), bucket("sb", 10)]), bucket("sa", 10)]
    buckets = ItemFeatures(SCHEMA).encode({"genre": [["c", "b", "c"], {"c", "b"}]}, 2)[2].tolist()
    assert buckets == sorted({bucket("sb", 10), bucket("sc", 10)}) * 2


def test_a_category_is_the_same_bucket_in_every_process():
    assert ItemFeatures({"genre": Categorical()}).encode({"genre": ["drama", 3]}, 2)[2].tolist() == [1910, 856]


def test_what_json_keeps_comes_back():
    features = ItemFeatures(SCHEMA)
    again = ItemFeatures.from_spec(features.spec())
    assert again == SCHEMA
    assert list(again) == list(SCHEMA)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ({"text": [[1.0, 2.0]]}, ValueError, r"^features\['text'\] is not among this model's: title, genre, cover"),
        ([1, 2], TypeError, r"^features: a list must be a dict"),
        ({"title": [[1.0, 2.0]] * 2}, ValueError, r"^features\['title'\] has shape \(2, 2\); it must be \(1, 2\)"),
        ({"title": [["a", "b"]]}, TypeError, r"^features\['title'\] has dtype"),
        ({"title": [[1.0, np.nan]]}, ValueError, r"^features\['title'\]\[0, 1\] = nan must be from"),
        ({"title": [[1.0, -1.1e6]]}, ValueError, r"^features\['title'\]\[0, 1\] = -1100000\.0 must be from"),
        ({"title": [[1.0, 2.0], [3.0]]}, ValueError, r"^features\['title'\] is no array"),
        ({"genre": [10**5000]}, ValueError, r"^features\['genre'\]\[0\]: a number doesn't fit int64"),
        ({"genre": np.ma.masked_array(["a"], mask=[1])}, TypeError, r"^features\['genre'\] must be a list"),
        ({"title": np.ma.masked_array([[1.0, 2.0]], mask=[[0, 1]])}, TypeError, r"^features\['title'\] is a masked"),
        ({"genre": "drama"}, TypeError, r"^features\['genre'\] must be a list"),
        ({"genre": [["a"], ["b"]]}, ValueError, r"^features\['genre'\] has length 2; items has 1"),
        ({"genre": [[1.5]]}, TypeError, r"^features\['genre'\]\[0\]: 1\.5 is no category"),
        ({"genre": [[True]]}, TypeError, r"^features\['genre'\]\[0\]: True is no category"),
        ({"genre": [2.5]}, TypeError, r"^features\['genre'\]\[0\] = 2\.5 must be a category, or a list"),
    ],
)
def test_what_is_refused_changes_nothing(features, error, message):
    model = fi.Recommender(dim=4, item_features=SCHEMA)
    with pytest.raises(error, match=message):
        model.add_items([1], features)
    assert model.n_items == 0


def test_a_schema_is_checked():
    for schema, message in (
        ([Dense(3)], r"^item_features = \[Dense\(size=3\)\] must be a dict"),
        ({"title": 3}, r"^item_features\['title'\] = 3 must be"),
        ({3: Dense(3)}, r"^item_features\[3\]"),
    ):
        with pytest.raises(TypeError, match=message):
            fi.Recommender(item_features=schema)
    with pytest.raises(ValueError, match=r"^size = 0 must be from 1"):
        Dense(0)
    with pytest.raises(TypeError, match=r"^buckets = 2\.5"):
        Categorical(2.5)
    with pytest.raises(ValueError, match=r"^features: this model has no item_features"):
        fi.Recommender().add_items([1], {})
    with pytest.raises(ValueError, match=r"^feature_lr_scale = -1"):
        fi.Recommender(item_features=SCHEMA, feature_lr_scale=-1.0)

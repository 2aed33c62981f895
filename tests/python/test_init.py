"""Start values: the stream of random numbers, its distributions, and what they depend on."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastinc as fi
from fastinc.init import Constant, Normal, Uniform, Zeros

MASK = 2**64 - 1
SEEDS = st.integers(0, MASK)
IDS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, -1, 1, -(2**63), 2**63 - 1]))


def rows(init, ids, dim):
    return fi.EmbeddingTable(dim, init=init).lookup(np.asarray(ids, np.int64))


def mix(x):
    """The output function of splitmix64, over uint64 arrays."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniforms(seed, ids, dim):
    """What the engine draws: (n, dim) odd multiples of 2^-24 in (0, 1), float64."""
    golden = 0x9E3779B97F4A7C15
    ids = np.asarray(ids, np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        start = mix(np.array([(seed + golden) & MASK], np.uint64))
        key = mix(start ^ (ids * np.uint64(0xD1342543DE82EF95) + np.uint64(1)))
        bits = mix(key[:, None] + np.arange(1, dim + 1, dtype=np.uint64) * np.uint64(golden))
    return ((bits >> np.uint64(41)).astype(np.float64) + 0.5) * 2.0**-23


def ks_distance(values, cdf):
    """Largest distance between the empirical and the given distribution function."""
    values = np.sort(values)
    n = len(values)
    expected = cdf(values)
    return max((np.arange(1, n + 1) / n - expected).max(), (expected - np.arange(n) / n).max())


def normal_cdf(z):
    return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])


# --- the numbers themselves: a change of any bit would change every model ------------------------------------


@given(seed=SEEDS, ids=st.lists(IDS, min_size=1, max_size=5), dim=st.integers(1, 70))
def test_uniform_values_are_the_documented_stream(seed, ids, dim):
    expected = uniforms(seed, ids, dim)
    np.testing.assert_array_equal(rows(Uniform(0.0, 1.0, seed), ids, dim), expected.astype(np.float32))
    np.testing.assert_array_equal(rows(Uniform(-1.0, 1.0, seed), ids, dim), (2 * expected - 1).astype(np.float32))


@pytest.mark.parametrize("seed", [0, 7, MASK])
def test_normal_values_are_the_quantiles_of_the_uniform_ones(seed):
    """Inversion: value by value, out to the tails; 1e-6 relative is what Giles' approximation promises."""
    ids, dim = np.arange(-300, 300), 100
    values = rows(Normal(0.0, 1.0, seed), ids, dim).ravel().astype(np.float64)
    inverse = statistics.NormalDist().inv_cdf
    exact = np.array([inverse(u) for u in uniforms(seed, ids, dim).ravel()])
    assert np.abs(exact).max() > 3.9
    np.testing.assert_allclose(values, exact, rtol=2e-6, atol=1e-9)


#: Ids and columns whose uniform number, under seed 0, is the least and the greatest there is.
LEAST, GREATEST = (1280648, 7), (167771, 0)


def test_the_ends_of_the_stream():
    dim = 8
    for (id, column), expected in ((LEAST, 2.0**-24), (GREATEST, 1 - 2.0**-24)):
        assert uniforms(0, [id], dim)[0, column] == expected
        assert rows(Uniform(0.0, 1.0), [id], dim)[0, column] == expected
        normal = float(rows(Normal(0.0, 1.0), [id], dim)[0, column])
        assert normal == pytest.approx(statistics.NormalDist().inv_cdf(expected), rel=2e-6)
        for low, high in ((-1.0, -(2.0**-30)), (-0.01, 0.01), (-1e38, 1e-38), (1.0, 1.0 + 2.0**-23), (0.1, 0.7)):
            value = rows(Uniform(low, high), [id], dim)[0, column]
            assert np.float32(low) <= value <= np.float32(high)


# --- distributions ------------------------------------------------------------------------------------------


def test_normal_statistics():
    n, dim, mean, std = 2000, 50, 0.25, 2.0
    values = (rows(Normal(mean, std, seed=1), np.arange(n), dim).astype(np.float64) - mean) / std
    flat = values.ravel()
    size = len(flat)
    assert abs(flat.mean()) < 4 / math.sqrt(size)
    assert abs(flat.std() - 1) < 4 / math.sqrt(2 * size)
    assert abs((flat**3).mean()) < 4 * math.sqrt(15 / size)
    assert abs((flat**4).mean() - 3) < 4 * math.sqrt(96 / size)
    assert ks_distance(flat, normal_cdf) < 1.95 / math.sqrt(size)  # p = .001
    for z in (1, 2, 3, 4):
        beyond = 0.5 * math.erfc(z / math.sqrt(2)) * size
        for count in ((flat > z).sum(), (flat < -z).sum()):
            assert abs(count - beyond) < 4 * math.sqrt(beyond) + 1
    assert len(np.unique(flat)) > 0.95 * size


def test_uniform_statistics():
    low, high, size = -0.25, 0.75, 100_000
    values = rows(Uniform(low, high, seed=2), np.arange(1000), 100).ravel().astype(np.float64)
    assert values.min() >= low
    assert values.max() <= high
    assert abs(values.mean() - 0.25) < 4 * math.sqrt(1 / 12 / size)
    assert abs(values.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / size)
    assert ks_distance(values, lambda x: x - low) < 1.95 / math.sqrt(size)


def correlation(a, b):
    return np.corrcoef(a.ravel().astype(np.float64), b.ravel().astype(np.float64))[0, 1]


@pytest.mark.parametrize("init", [Normal, Uniform])
def test_neighbours_are_independent(init):
    """Columns, ids, seeds, and ids against seeds: 100,000 pairs each, correlation within 4.5 sigma of 0."""
    ids, dim = np.arange(-1000, 1000), 51
    here = rows(init(seed=10), ids, dim)
    bound = 4.5 / math.sqrt(here[:, 1:].size)
    assert abs(correlation(here[:, 1:], here[:, :-1])) < bound
    assert abs(correlation(here[1:], here[:-1])) < bound
    for other in (11, 10 + 2**32, 2**64 - 10, 10 ^ 2**63):
        there = rows(init(seed=other), ids, dim)
        assert abs(correlation(here, there)) < bound
        assert abs(correlation(here[1:, 1:], there[:-1, :-1])) < bound
    for shift in (2**32, 2**52, -(2**63) + 5000):
        assert abs(correlation(here, rows(init(seed=10), ids + shift, dim))) < bound


def test_seed_and_id_are_not_interchangeable():
    ids = np.arange(50)
    table = np.stack([rows(Normal(seed=s), ids, 3)[:, 0] for s in range(50)])
    assert len(np.unique(table)) == table.size


# --- what a value depends on --------------------------------------------------------------------------------


@given(seed=SEEDS, ids=st.lists(IDS, min_size=1, max_size=20), data=st.data())
def test_values_depend_on_seed_and_id_alone(seed, ids, data):
    """Not on the order of ids, the batch they come in, or other rows; a shorter row is the start of a longer."""
    init = Normal(1.0, 3.0, seed)
    here = rows(init, ids, 40)
    order = data.draw(st.permutations(range(len(ids))))
    np.testing.assert_array_equal(rows(init, [ids[i] for i in order], 40), here[list(order)])
    np.testing.assert_array_equal(rows(init, ids, 7), here[:, :7])
    table = fi.EmbeddingTable(40, fi.SGD(lr=0.0), init)
    for id in reversed(ids):
        table.update([id], np.ones((1, 40), np.float32))
    np.testing.assert_array_equal(table.lookup(ids), here)


# --- parameters ---------------------------------------------------------------------------------------------


@given(
    low=st.floats(-(2.0**100), 2.0**100, width=32),
    width=st.floats(0, 2.0**100, width=32),
    seed=SEEDS,
)
def test_uniform_stays_between_its_ends(low, width, seed):
    high = float(np.float32(low) + np.float32(width))
    values = rows(Uniform(low, high, seed), range(50), 20)
    assert values.min() >= np.float32(low)
    assert values.max() <= np.float32(high)


def test_degenerate_distributions():
    ids = np.arange(100)
    np.testing.assert_array_equal(rows(Normal(0.5, 0.0), ids, 3), 0.5)
    np.testing.assert_array_equal(rows(Uniform(0.25, 0.25), ids, 3), 0.25)
    np.testing.assert_array_equal(rows(Constant(-2.5), ids, 3), -2.5)
    assert np.signbit(rows(Constant(-0.0), ids, 3)).all()
    assert not np.signbit(rows(Zeros(), ids, 3)).any()
    assert not rows(Zeros(), ids, 3).any()


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(mean=NAN), r"^mean = -?nan"),
        (lambda: Normal(mean=INF), "^mean = inf"),
        (lambda: Normal(std=-1.0), r"^std = -1"),
        (lambda: Normal(std=-1e-9), r"^std = -1e-0?9"),
        (lambda: Normal(std=NAN), r"^std = -?nan"),
        (lambda: Normal(std=1e39), r"^std = 1e\+?39"),
        (lambda: Normal(std=INF), "^std = inf"),
        (lambda: Normal(seed=-1), r"^seed = -1 must be from 0"),
        (lambda: Normal(seed=2**64), r"^seed = 18446744073709551616 must be from 0"),
        (lambda: Uniform(1.0, -1.0), r"^low = 1.* must be <= high = -1"),
        (lambda: Uniform(NAN, 1.0), r"^low = -?nan"),
        (lambda: Uniform(0.0, INF), "^high = inf"),
        (lambda: Uniform(-3e38, 3e38), r"^low = .*high"),
        (lambda: Uniform(seed=2**64), "^seed = "),
        (lambda: Constant(NAN), r"^value = -?nan"),
        (lambda: Constant(-INF), "^value = -inf"),
    ],
    ids=range(16),
)
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        fi.EmbeddingTable(2, init=make())


def test_a_seed_that_is_no_whole_number_is_named():
    with pytest.raises((TypeError, ValueError), match="seed"):
        fi.EmbeddingTable(2, init=Normal(seed=1.5))

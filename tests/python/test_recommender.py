"""The Recommender: its formulas, what it learns, determinism. Arguments and ids: test_recommender_api.py."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastinc as fi
from _reference import PLAIN_CASES, PLAIN_RECOMMENDER, bytes_of

LOSSES = ("softmax", "bpr", "logistic", "mse")
USERS = ("history", "vector", "both")


def alternating(n_users=12, rounds=40):
    """Every user goes round a ring of their own of three items: after each item, one is right."""
    users, items = [], []
    for step in range(rounds):
        for user in range(n_users):
            users.append(user)
            items.append(10 * (user % 4) + step % 3)
    return np.array(users), np.array(items)


def plain(*arguments, **more):
    return fi.Recommender(*arguments, **{**PLAIN_RECOMMENDER, **more})


def tiny_model(**more):
    return plain(**{"dim": 16, "negatives": 20, "window": 4, "time_scale": None, "seed": 3, **more})


# --- the formulas, in float64 -------------------------------------------------------------------------------


class Reference:
    """Model T1 with Adagrad, one event at a time, for streams with so few items that all others are negatives."""

    def __init__(self, model, n_items, n_users, lr, start):
        self.p = model.get_params()
        self.lr, self.dim = lr, self.p["dim"]

        def rows(core, n, dim):
            out = np.empty((n, dim), np.float32)
            core.lookup(np.arange(n), out)
            return out.astype(np.float64)

        self.items = rows(model._core.items, n_items, self.dim + 1)
        self.items[:, -1] = 0.0  # biases start at 0
        self.contexts = rows(model._core.tables["contexts"], n_items, self.dim)
        self.users = rows(model._core.tables["users"], n_users, self.dim)
        self.sums = {name: np.full_like(getattr(self, name), start) for name in ("items", "contexts", "users")}
        self.seen, self.history = [], {}

    def step(self, name, row, gradient):
        self.sums[name][row] += gradient**2
        getattr(self, name)[row] -= self.lr * gradient / (np.sqrt(self.sums[name][row]) + 1e-8)

    def weights(self, user, time):
        """Item to weight in the user's sum."""
        weights = {}
        recent = self.history.get(user, [])[::-1][: self.p["window"]]
        for rank, (item, at) in enumerate(recent, start=1):
            w = rank ** -self.p["recency_exponent"]
            if self.p["time_scale"] is not None:
                w /= 1 + max(0.0, time - at) / self.p["time_scale"]
            weights[item] = weights.get(item, 0.0) + w
        return weights

    def query(self, user, time):
        q = np.zeros(self.dim)
        if self.p["user"] != "vector":
            for item, w in self.weights(user, time).items():
                q += w * self.contexts[item]
        if self.p["user"] != "history":
            q += self.users[user]
        return q

    def offset(self):
        return 0.0

    def coefficients(self, scores, label):
        """d loss / d score, the target first."""
        sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
        target, others = scores[0], scores[1:]
        if self.p["loss"] == "softmax":
            if not len(others):
                return np.zeros(1)
            logits = np.r_[target, others + np.log((len(self.seen) - 1) / len(others))]
            p = np.exp(logits - logits.max())
            p /= p.sum()
            return np.r_[p[0] - 1, p[1:]]
        if self.p["loss"] == "bpr":
            c = sigmoid(others - target) / max(len(others), 1)
            return np.r_[-c.sum(), c]
        return np.r_[sigmoid(target) - 1, sigmoid(others)]

    def learn(self, user, item, time):
        if item not in self.seen:
            self.seen.append(item)
        mine = {i for i, _ in self.history.get(user, [])[-100:]}
        rows = [item, *(j for j in self.seen if j != item and j not in mine)]
        q = np.r_[self.query(user, time), 1.0]
        c = self.coefficients(self.items[rows] @ q, None)
        gradient = c @ self.items[rows][:, :-1]
        for row, coefficient in zip(rows, c, strict=True):
            self.step("items", row, coefficient * q)
        if self.p["user"] != "vector":
            for row, w in self.weights(user, time).items():
                self.step("contexts", row, w * gradient)
        if self.p["user"] != "history":
            self.step("users", user, gradient)
        self.history.setdefault(user, []).append((item, time))


def test_three_events_of_t1_softmax_by_hand():
    """Spelled out once, without the class above: two users, three items, weights 1 and 2**-0.7."""
    d, lr, eps = 4, 0.12, 1e-8
    model = plain(dim=d, time_scale=100.0, seed=5)
    v = np.empty((3, d + 1), np.float32)
    x = np.empty((3, d), np.float32)
    model._core.items.lookup(np.arange(3), v)
    model._core.tables["contexts"].lookup(np.arange(3), x)
    v, x = v.astype(np.float64), x.astype(np.float64)
    v[:, d] = 0
    hv, hx = np.full_like(v, 0.1), np.full_like(x, 0.1)

    # event 1: user 0 takes item 0 at 0 s; no other item, so nothing is learned.
    # event 2: user 0 takes item 1 at 10 s, from q = X0 / 1.1; item 0 is theirs, so no negatives again.
    # event 3: user 1 takes item 2 at 20 s, from q = 0; negatives 0 and 1, log((3 - 1) / 2) = 0: only biases move.
    p = np.full(3, 1 / 3)
    c = p - np.array([0, 0, 1])
    hv[:, d] += c**2
    v[:, d] -= lr * c / (np.sqrt(hv[:, d]) + eps)
    # event 4: user 0 takes item 2 at 40 s, from q = X1 / 1.3 + 2**-0.7 X0 / 1.4; items 0 and 1 are theirs.
    # event 5: user 1 takes item 0 at 50 s, from q = X2 / 1.3; negative 1; log((3 - 1) / 1) is added to its logit.
    q = np.r_[x[2] / 1.3, 1.0]
    logits = v[[0, 1]] @ q + [0, np.log(2)]
    c = np.exp(logits) / np.exp(logits).sum() - [1, 0]
    gradient = c @ v[[0, 1], :d]
    for row, coefficient in zip((0, 1), c, strict=True):
        hv[row] += (coefficient * q) ** 2
        v[row] -= lr * coefficient * q / (np.sqrt(hv[row]) + eps)
    hx[2] += (gradient / 1.3) ** 2
    x[2] -= lr * gradient / 1.3 / (np.sqrt(hx[2]) + eps)

    model.partial_fit([0, 0, 1, 0, 1], [10, 11, 12, 12, 10], timestamps=[0.0, 10.0, 20.0, 40.0, 50.0])
    np.testing.assert_allclose(model.item_table.lookup([0, 1, 2]), v, rtol=1e-5, atol=1e-7)
    now = np.r_[x[0] / (1 + 5 / 100) + 2**-0.7 * x[2] / (1 + 35 / 100), 1.0]
    np.testing.assert_allclose(model.user_vectors([1], at=55.0)[0], now, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(model.predict([1] * 3, [10, 11, 12], at=55.0), v @ now, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["softmax", "bpr", "logistic"])
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("time_scale", [None, 60.0])
def test_matches_the_float64_reference(loss, user, time_scale):
    rng = np.random.default_rng(0)
    n, n_users, n_items, lr, start = 60, 5, 9, 0.12, 0.1
    optimizer = fi.Adagrad(lr=lr, initial_accumulator_value=start)
    model = plain(7, loss, user, optimizer, window=3, time_scale=time_scale, seed=1, init_std=0.5)
    reference = Reference(model, n_items, n_users, lr, start)
    users, items = rng.integers(0, n_users, n), rng.integers(0, n_items, n)
    users[:n_users], items[:n_items] = range(n_users), range(n_items)  # codes in this order
    times = np.cumsum(rng.exponential(20.0, n))
    for event in zip(users.tolist(), items.tolist(), times.tolist(), strict=True):
        reference.learn(*event)
    model.partial_fit(users, items, timestamps=times)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(model.item_table.lookup(range(n_items)), reference.items, **close)
    queries = np.stack([np.r_[reference.query(u, times[-1] + 5), 1] for u in range(n_users)])
    np.testing.assert_allclose(model.user_vectors(range(n_users), at=times[-1] + 5), queries, **close)


def test_mse_by_hand():
    """The offset is the mean label so far, this event's not among them."""
    lr = 0.5
    model = plain(3, "mse", "vector", fi.SGD(lr=lr), seed=2)
    v, u = np.empty((2, 4), np.float32), np.empty((1, 3), np.float32)
    model._core.items.lookup(np.arange(2), v)
    model._core.tables["users"].lookup(np.arange(1), u)
    v, u = v.astype(np.float64), u.astype(np.float64)
    v[:, 3] = 0
    seen = []
    for item, label in ((0, 4.0), (1, 1.0), (0, 5.0)):
        q = np.r_[u[0], 1]
        c = v[item] @ q + (np.mean(seen) if seen else 0.0) - label
        gradient = c * v[item, :3]
        v[item] -= lr * c * q
        u[0] -= lr * gradient
        seen.append(label)
    model.partial_fit([7, 7, 7], [0, 1, 0], labels=[4.0, 1.0, 5.0])
    np.testing.assert_allclose(model.item_table.lookup([0, 1]), v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict([7, 7], [0, 1]), v @ np.r_[u[0], 1] + np.mean(seen), rtol=1e-5, atol=1e-6)


def test_logistic_with_labels_by_hand():
    lr = 0.5
    model = plain(3, "logistic", "vector", fi.SGD(lr=lr), seed=2)
    v, u = np.empty((2, 4), np.float32), np.empty((1, 3), np.float32)
    model._core.items.lookup(np.arange(2), v)
    model._core.tables["users"].lookup(np.arange(1), u)
    v, u = v.astype(np.float64), u.astype(np.float64)
    v[:, 3] = 0
    total, count = 0.0, 0

    def probability(score):
        p = (total + 1) / (count + 2)
        return 1 / (1 + np.exp(-score - (np.log(p / (1 - p)) if count else 0.0)))

    for item, label in ((0, 1.0), (1, 0.0), (0, 1.0), (1, 0.25)):
        q = np.r_[u[0], 1]
        c = probability(v[item] @ q) - label
        gradient = c * v[item, :3]
        v[item] -= lr * c * q
        u[0] -= lr * gradient
        total, count = total + label, count + 1
    model.partial_fit([7] * 4, [0, 1, 0, 1], labels=[1.0, 0.0, 1.0, 0.25])
    expected = [probability(v[i] @ np.r_[u[0], 1]) for i in (0, 1)]
    np.testing.assert_allclose(model.predict([7, 7], [0, 1]), expected, rtol=1e-5)


# --- it learns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "bpr", "logistic"])
@pytest.mark.parametrize("optimizer", PLAIN_CASES, ids=str)
def test_what_comes_next_is_ranked_first(loss, optimizer):
    optimizer = optimizer.optimizer()
    optimizer.lr = {"Adam": 0.003, "SGD": 0.1}.get(type(optimizer).__name__, 0.2)
    users, items = alternating(rounds=120)
    model = tiny_model(loss=loss, optimizer=optimizer, window=1)
    model.partial_fit(users[:-12], items[:-12])
    ids, _ = model.recommend(users[-12:], k=1, exclude_seen=False)
    assert (ids[:, 0] == items[-12:]).mean() > 0.7  # 1/12 by chance


@pytest.mark.parametrize("loss", ["softmax", "bpr", "logistic"])
@pytest.mark.parametrize("user", USERS)
def test_a_users_own_items_are_ranked_above_others(loss, user):
    users, items = alternating()
    model = tiny_model(loss=loss, user=user).partial_fit(users, items)
    ids, _ = model.recommend(range(12), k=3, exclude_seen=False)
    own = [{10 * (u % 4) + j for j in range(3)} for u in range(12)]
    assert np.mean([len(mine & set(row)) / 3 for mine, row in zip(own, ids.tolist(), strict=True)]) > 0.9


def rated_events(n=6000, n_users=40, n_items=30, seed=0):
    """Labels from biases and two tastes."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, n_users, n), rng.integers(0, n_items, n)
    taste = rng.standard_normal((n_users, 2)), rng.standard_normal((n_items, 2)), rng.standard_normal(n_items)
    score = (taste[0][users] * taste[1][items]).sum(1) + taste[2][items]
    return users, items, score


@pytest.mark.parametrize("user", ["vector", "both"])
def test_mse_beats_the_mean(user):
    users, items, score = rated_events()
    labels = 3 + score
    model = tiny_model(loss="mse", user=user, optimizer=fi.Adagrad(lr=0.1, initial_accumulator_value=0.1))
    model.partial_fit(users[:5000], items[:5000], labels[:5000])
    error = model.predict(users[5000:], items[5000:]) - labels[5000:]
    spread = labels[5000:] - labels[:5000].mean()
    assert np.mean(error**2) < 0.35 * np.mean(spread**2)


@pytest.mark.parametrize("user", ["vector", "both"])
def test_logistic_orders_clicks(user):
    users, items, score = rated_events()
    labels = (np.random.default_rng(1).random(len(score)) < 1 / (1 + np.exp(-2 * score))).astype(float)
    model = tiny_model(loss="logistic", user=user)
    model.partial_fit(users[:5000], items[:5000], labels[:5000])
    p = model.predict(users[5000:], items[5000:])
    assert ((p > 0) & (p < 1)).all()
    positive, negative = p[labels[5000:] == 1], p[labels[5000:] == 0]
    auc = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
    assert auc > 0.75
    assert abs(p.mean() - labels.mean()) < 0.1


def test_similar_items_go_together():
    users, items = alternating(rounds=100)
    model = tiny_model(loss="softmax", window=2, user="vector").partial_fit(users, items)
    neighbours, cosines = model.similar_items(np.arange(4) * 10, k=2)
    same_ring = [set(row) <= {10 * r + j for j in range(3)} for r, row in enumerate(neighbours.tolist())]
    assert sum(same_ring) >= 3
    assert (np.abs(cosines) <= 1 + 1e-6).all()


def test_similar_items_is_the_cosine_of_the_vectors():
    users, items = alternating()
    model = tiny_model().partial_fit(users, items)
    ids = model.items_of(range(model.n_items))
    vectors = model.item_table.lookup(range(model.n_items))[:, :-1].astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    found, scores = model.similar_items(ids, k=4)
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :4], atol=1e-6)
    np.testing.assert_array_equal(found, ids[np.argsort(-cosines, axis=1)[:, :4]])


def test_scores_are_inner_products_and_best_first():
    users, items = alternating()
    model = tiny_model(user="both").partial_fit(users, items)
    rows = model.item_table.lookup(model.item_codes(model.items_of(range(model.n_items))))
    expected = model.user_vectors(range(12)).astype(np.float64) @ rows.T.astype(np.float64)
    ids, scores = model.recommend(range(12), k=model.n_items, exclude_seen=False)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1), rtol=1e-5, atol=1e-5)
    for u in range(12):
        predicted = model.predict([u] * model.n_items, ids[u])
        np.testing.assert_array_equal(predicted, scores[u])


# --- determinism --------------------------------------------------------------------------------------------


def stream(n=900, seed=0):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(20.0, n))
    return rng.integers(0, 30, n), rng.integers(0, 200, n), rng.random(n), times


def fit(model, batches, labels=True):
    users, items, y, times = stream()
    for part in batches:
        y_part = y[part] if model.uses_labels and labels else None
        model.partial_fit(users[part], items[part], y_part, times[part])
    return model


def fingerprint(model):
    codes = np.arange(model.n_items)
    users, items, _, times = stream()
    context = np.empty((model.n_items, model.get_params()["dim"]), np.float32)
    model._core.tables["contexts"].lookup(codes, context)
    arrays = bytes_of(
        model.user_vectors(range(31)),
        model.item_table.lookup(codes),
        model.item_table.lookup_quantized(codes),
        context,
        model.predict(users, items, at=times[-1] + 100),
        *model.recommend(range(31), k=30),
    )
    return *arrays, model.stats()


def small(loss, user):
    return plain(16, loss, user, negatives=30, seed=8)


WHOLE = [slice(None)]


@pytest.mark.parametrize(("loss", "user"), list(itertools.product(LOSSES, USERS)))
def test_one_event_per_call_equals_all_in_one(loss, user):
    expected = fingerprint(fit(small(loss, user), WHOLE))
    ones = [slice(i, i + 1) for i in range(900)]
    odd = [slice(a, b) for a, b in itertools.pairwise([0, 1, 1, 255, 256, 257, 512, 513, 900])]
    assert fingerprint(fit(small(loss, user), ones)) == expected
    assert fingerprint(fit(small(loss, user), odd)) == expected


def test_calls_may_be_cut_where_groups_of_events_are():
    expected = fingerprint(fit(fi.Recommender(16, negatives=30, seed=8, batch_size=32), WHOLE))
    assert expected != fingerprint(fit(fi.Recommender(16, negatives=30, seed=8, batch_size=16), WHOLE))
    for cuts in ([0, 32, 32, 320, 896, 900], [0, 480, 512, 900]):
        parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        assert fingerprint(fit(fi.Recommender(16, negatives=30, seed=8, batch_size=32), parts)) == expected


EVERY_PART = {"tie_weight": 0.5, "long_window": 60, "situations": True, "hidden": 8, "time_scale": 50.0}


@pytest.mark.parametrize("user", ["history", "both"])
def test_a_model_of_every_part_is_kept_and_goes_on_the_same(user, tmp_path):
    model = fit(plain(16, user=user, negatives=30, seed=8, **EVERY_PART), [slice(0, 600)])
    assert {name: len(table) for name, table in model._core.tables.items() if name.startswith(("hid", "sit"))} == {
        "situations": 42,
        "hidden_in": 8,
        "hidden_out": 8,
    }
    fi.checkpoint.save(model, tmp_path)
    copy = fi.checkpoint.load(tmp_path)[0]
    rest = [slice(600, 700), slice(700, 900)]
    assert fingerprint(fit(copy, rest)) == fingerprint(fit(model, rest))
    ones = fit(plain(16, user=user, negatives=30, seed=8, **EVERY_PART), [slice(i, i + 1) for i in range(900)])
    assert fingerprint(ones) == fingerprint(model)


def test_every_part_is_in_the_query():
    """What each of them adds, by hand, from what the tables hold."""
    model = fit(plain(16, negatives=30, seed=8, init_std=0.3, **EVERY_PART), WHOLE)
    rows = {}
    for name, table in model._core.tables.items():
        rows[name] = np.empty((len(table), table.dim), np.float32)
        table.lookup(np.arange(len(table)), rows[name])
        rows[name] = rows[name].astype(np.float64)
    state = model._core.export_state()
    at = float(state["latest_time"]) + 30.0
    for user in range(5):
        (code,) = model._user_ids.encode(np.array([user]), add=False)
        begin, end = state["history_offsets"][code : code + 2]
        items, times = state["history_items"][begin:end][::-1], state["history_times"][begin:end][::-1]
        weights = np.arange(1, len(items) + 1)[:20] ** -0.7 / (1 + (at - times[:20]) / 50.0)
        q = weights @ (rows["contexts"][items[:20]] + 0.5 * rows["items"][items[:20], :-1])
        q += 0.5 / np.sqrt(min(60, len(items))) * rows["long_terms"][items[:60]].sum(axis=0)
        gap = int(at - times[0]).bit_length()
        q += rows["situations"][[0, 1 + len(items).bit_length(), 17 + gap]].sum(axis=0)
        q += np.maximum(rows["hidden_in"] @ np.r_[q, 1.0], 0.0) @ rows["hidden_out"]
        np.testing.assert_allclose(model.user_vectors([user], at=at)[0], np.r_[q, 1.0], rtol=1e-4, atol=1e-4)


def test_scalar_events_equal_arrays():
    users, items, _, times = stream()
    model = small("softmax", "both")
    for user, item, time in zip(users.tolist(), items.tolist(), times.tolist(), strict=True):
        model.partial_fit(user, item, timestamps=time)
    assert fingerprint(model) == fingerprint(fit(small("softmax", "both"), WHOLE))


def test_asking_changes_nothing():
    model = small("softmax", "both")
    for part in (slice(0, 300), slice(300, 301), slice(301, 900)):
        fit(model, [part])
        usage = model.memory_usage()
        model.recommend([1, 10**9], k=500, exclude=[3, 10**9])
        model.predict([1, 10**9], [10**9, 3])
        model.similar_items([3, 10**9])
        model.user_vectors([10**9])
        assert model.memory_usage() == usage
    assert fingerprint(model) == fingerprint(fit(small("softmax", "both"), WHOLE))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_seed_decides(loss):
    def of(seed):
        return fingerprint(fit(plain(16, loss, "both", negatives=30, seed=seed), WHOLE))

    assert of(1) == of(1)
    assert of(1) != of(2)


def test_string_ids_equal_int_ids():
    users, items, _, times = stream()
    ints = fit(small("softmax", "both"), WHOLE)
    texts = small("softmax", "both")
    names, titles = np.char.add("user-", users.astype(str)), np.char.add("ítem ", items.astype(str))
    texts.partial_fit(names[:400], titles[:400], timestamps=times[:400])
    texts.partial_fit(names[400:].astype(object), titles[400:].tolist(), timestamps=times[400:])
    int_ids, int_scores = ints.recommend(users[:50], k=9)
    text_ids, text_scores = texts.recommend(names[:50], k=9)
    assert text_ids.dtype == object
    assert text_ids.tolist() == [[f"ítem {i}" if i >= 0 else "" for i in row] for row in int_ids.tolist()]
    assert bytes_of(int_scores) == bytes_of(text_scores)
    assert bytes_of(ints.predict(users, items)) == bytes_of(texts.predict(names, titles))

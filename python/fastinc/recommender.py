"""The online recommender: learns every event as it comes, answers from it at once."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastinc import _core
from fastinc._arguments import as_flag, as_number, as_probability, as_whole
from fastinc._presets import CHECKS, PRESET, FromPreset, Preset, configure, default_optimizer
from fastinc._transfer import TransferModel
from fastinc.features import Categorical, Dense, ItemFeatures
from fastinc.optimizers import Optimizer
from fastinc.schedules import Constant, Schedule
from fastinc.snapshot import Snapshot

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Recommender"]

#: Losses that learn from labels.
_LABELLED = ("logistic", "mse")


class Recommender(TransferModel):
    """An embedding recommender that learns from the event stream while it serves.

    A user is what they did lately, so a new user is served well from the first event on. With ``h`` the user's items,
    most recent first, at times ``t_l``, a request at time ``t`` and V, b the vectors and biases of items,

    ``score(j) = <q, V_j> + b_j``, ``q = q0 + W2 relu(W1 q0 + b1)``,

    ``q0 = sum_{l <= window} w_l (X[h_l] + tie_weight V[h_l]) + long_weight / sqrt(L) sum_{l <= L} Y[h_l]
    + S[everybody] + S[stage] + S[gap] + U[user]``,

    ``w_l = l**-recency_exponent / (1 + (t - t_l) / time_scale)``, ``L = min(long_window, len(h))``,

    stage being the bit length of ``len(h)`` and gap that of ``t - t_1`` in whole seconds. Parts can be left out.

    One inner product, so any index can serve it; the item rows are an :class:`EmbeddingTable`
    (:attr:`item_table`), and a :class:`fastinc.LiveIndex` over it is always up to date. All learning is in C++.

    Events that one call learns are learned `batch_size` at a time: all of a group are scored against the rows as
    they were before it, each with its user's history as of itself, and then every row takes one optimizer step with
    the sum of its gradients. Groups begin at multiples of `batch_size` in the count of events, so the same events
    and seed give the same bytes for any number of threads, any instruction set, and any cut of the stream into calls
    at such multiples. An event learned by a call of its own is learned at once.

    Parameters
    ----------
    dim
        Length of the vectors.
    loss
        "softmax": over the item and the negatives. "bpr": Bayesian personalised ranking (Rendle et al. 2009), the
        mean over the negatives. "logistic": on labels in [0, 1], or without labels on 1 for the event against 0 for
        the negatives. "mse": on labels, such as ratings.
    user
        "history" (the sum over recent items), "vector" (U alone: online matrix factorisation) or "both".
    optimizer
        For all rows; default the preset's, ``Adagrad(lr=0.12, initial_accumulator_value=0.1)``.
    preset
        What the arguments below are if not given: "quality", or "fast", which learns several times as many events a
        second and ranks a little worse. docs/quality.md has the figures of both.
    negatives
        Items drawn per event, uniformly and without repeats from the items seen (by the end of its group), its own and
        its user's last 100 left out.
    popular_negatives
        Each is drawn with this probability from the items of the last 65,536 events learned instead, so by how often
        it was taken of late: with few negatives of many items these tell more. Meant for ``hard_negatives=None``:
        with hard ones it ranks worse.
    hard_negatives
        Of the items drawn, only those are negatives whose score is at least so many standard deviations above their
        mean. None, and for users without a history: all are, and under "softmax" their logits get minus the log of the
        probability that they were drawn (Yi et al. 2019), ``log((items - 1) / negatives)`` where none are popular.
    window
        Recent items in the user's sum.
    history_size
        Items remembered per user, for the windows and to leave out of recommendations.
    recency_exponent
        How fast weights fall with rank; 0 weighs all alike.
    time_scale
        Seconds; weights fall with age as ``1 / (1 + age / time_scale)``, so a user who has been away for many times
        as long gets what the long-term sum and the popularity of items say. None: age doesn't count.
    context_lr_scale
        The learning rate of X is this share of the optimizer's; 0: there is no X.
    tie_weight
        The share of an item's own vector in what it says of its user.
    long_window, long_weight
        Items in the long-term sum, and its weight; 0: there is none.
    situations
        Whether the vectors S are there.
    hidden
        Units of the network that makes q of q0; 0: q is q0.
    hidden_lr_scale
        Its learning rate is this share of the optimizer's.
    init_std
        Standard deviation of start vectors V, Y and U, and of X where tie_weight is 0. W1 starts with that of
        ``dim ** -0.5``, all others at 0.
    max_influence, influence_window
        An event isn't learned if its user had the item so often within so many seconds before it, learned or not; it is
        remembered, and counted in :meth:`stats`. None: all are learned. Not for events with labels.
    trusted_after
        How many other items a user must have had before their events are learned; until then they are remembered and
        counted likewise. 1 makes accounts that only push an item harmless, at the price that the model learns less of
        what newcomers take. History counts as far as it is kept.
    max_grad_norm
        The gradient of a row is shortened to this Euclidean length where it is longer (Pascanu et al. 2013). None: it
        is as it is.
    anchor
        How strongly rows are pulled back to where they were when :meth:`set_anchor` was called, or to what
        :meth:`warm_start` gave them: a step down the loss and ``anchor / 2 * |row - anchor|**2`` (L2-SP, Li et al.
        2018), for rows that have a gradient. 0: not at all; until there are anchors any value changes nothing.
        ``optimizer.lr * anchor`` should be well below 1 with :class:`fastinc.SGD`, or steps overshoot.
    item_features
        What items are known by beside their events, by name: :class:`fastinc.features.Dense` and
        :class:`fastinc.features.Categorical`; :meth:`add_items` takes the values. Such an item starts with the vector
        and bias ``F f``, where f is 1, its numbers, and 1 for each of its categories; F is learned online, by a step
        with every event towards the row of some item that has features and events (normalised by the length of f).
        None: start vectors are random.
    feature_lr_scale
        The learning rate of F is this share of the optimizer's.
    explore, explore_below
        The share of the places in lists that :meth:`recommend` gives to new items, those of fewer events than
        `explore_below` (learned or not), so that they are shown at all. `prequential` ranks, and explores nothing.
    batch_size
        Events of one call that are learned together: 1, 2, 4, ... 256.
    seed
        Of start vectors, negatives, the items that F learns from, and exploration.
    schedule
        Of the learning rate, by number of events; default ``fastinc.schedules.Constant()``.

    Raises
    ------
    ValueError
        An argument is out of range.

    See Also
    --------
    fastinc.evaluate.prequential : test-then-train evaluation with baselines.

    Examples
    --------
    >>> import fastinc as fi
    >>> events = fi.datasets.synthetic(2000, n_users=100, n_items=200, seed=1)
    >>> model = fi.Recommender(dim=16)
    >>> _ = model.partial_fit(events.users, events.items, timestamps=events.timestamps)
    >>> ids, scores = model.recommend(events.users[:3], k=5)
    >>> ids.shape
    (3, 5)
    >>> ids, scores = model.recommend(123456, k=5)  # a user never seen
    >>> len(ids)
    5
    """

    def __init__(
        self,
        dim: int = 64,
        loss: Literal["softmax", "bpr", "logistic", "mse"] = "softmax",
        user: Literal["history", "vector", "both"] = "history",
        optimizer: Optimizer | None = None,
        *,
        preset: Preset = "quality",
        negatives: int | FromPreset = PRESET,
        popular_negatives: float = 0.0,
        hard_negatives: float | FromPreset | None = PRESET,
        window: int | FromPreset = PRESET,
        history_size: int = 1000,
        recency_exponent: float | FromPreset = PRESET,
        time_scale: float | FromPreset | None = PRESET,
        context_lr_scale: float | FromPreset = PRESET,
        tie_weight: float | FromPreset = PRESET,
        long_window: int | FromPreset = PRESET,
        long_weight: float | FromPreset = PRESET,
        situations: bool | FromPreset = PRESET,
        hidden: int | FromPreset = PRESET,
        hidden_lr_scale: float = 1 / 6,
        init_std: float = 0.05,
        max_influence: int | None = None,
        influence_window: float = 86_400.0,
        trusted_after: int = 0,
        max_grad_norm: float | None = None,
        anchor: float = 0.0,
        item_features: Mapping[str, Dense | Categorical] | None = None,
        feature_lr_scale: float = 1.0,
        explore: float = 0.0,
        explore_below: int = 5,
        batch_size: int | FromPreset = PRESET,
        seed: int = 0,
        schedule: Schedule | None = None,
    ) -> None:
        self._config: dict[str, Any] = configure(preset, {k: v for k, v in locals().items() if k in CHECKS})
        optimizer = default_optimizer() if optimizer is None else optimizer
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer = {optimizer!r} must be a fastinc optimizer, such as fastinc.Adagrad()")
        schedule = Constant() if schedule is None else schedule
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule = {schedule!r} must be one of fastinc.schedules, such as WarmUp(1000)")
        self._optimizer = optimizer
        self._schedule = schedule
        self._preset = preset
        self._item_features = ItemFeatures(item_features)
        changed = {
            "time_scale": self._config["time_scale"] or 0.0,
            "max_grad_norm": self._config["max_grad_norm"] or 0.0,
            "feature_numbers": self._item_features.numbers,
            "feature_buckets": self._item_features.buckets,
            "schedule": schedule._spec(),
        }
        core = _core.Recommender(optimizer._core, {**self._config, **changed})
        super().__init__(core)
        self._core: _core.Recommender = core
        self.uses_labels = loss in _LABELLED

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of all rows; set its parameters to change them from the next call on."""
        return self._optimizer

    @property
    def schedule(self) -> Schedule:
        """What the optimizer's learning rate is multiplied by, by number of events."""
        return self._schedule

    @property
    def learning_rate(self) -> float:
        """The next event's: ``optimizer.lr``, times the schedule, times :meth:`boost_learning_rate`'s factor."""
        return self._optimizer.lr * self._core.lr_factor  # type: ignore[attr-defined, no-any-return]

    @property
    def frozen(self) -> bool:
        """Whether events are only remembered: histories, counters and ids follow the stream, no vector learns."""
        return self._core.frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._core.frozen = as_flag(value, "frozen")

    def get_params(self) -> dict[str, Any]:
        """Return the constructor's arguments.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.Recommender(dim=8).get_params()["dim"]
        8
        """
        own = {"preset": self._preset, "optimizer": self._optimizer, "schedule": self._schedule}
        return {**self._config, **own, "item_features": dict(self._item_features.schema) or None}

    def __repr__(self) -> str:
        return (
            f"Recommender(dim={self._config['dim']}, loss={self._config['loss']!r}, "
            f"user={self._config['user']!r}, users={self.n_users}, items={self.n_items}, events={self.n_events})"
        )

    def _check_labels(self, labels: NDArray[np.float32] | None, n: int) -> None:
        loss = self._config["loss"]
        if labels is None:
            if loss == "mse" and n > 0:
                raise ValueError("labels: loss='mse' needs them")
            return
        if loss not in _LABELLED:
            raise ValueError(
                f"labels: loss={loss!r} learns from events that happened; leave labels out (and drop events that "
                "aren't positive), or use loss='logistic' or 'mse'"
            )
        if loss == "logistic":
            outside = ~((labels >= 0) & (labels <= 1))
            if outside.any():
                first = int(np.argmax(outside))
                raise ValueError(f"labels[{first}] = {labels[first]} must be in [0, 1] for loss='logistic'")

    def add_items(self, items: Any, features: Mapping[str, Any] | None = None) -> Self:
        """Make items known before their first event, or give features to items that are.

        An item without events starts from its features, follows what is learned of them until its first event, and can
        be recommended at once. One that has events keeps its vector. Features given again replace all that an item had;
        the last of an item that repeats counts. No event is learned.

        Parameters
        ----------
        items
            (n,) ids, or one.
        features
            By name, as `item_features` of the constructor has them: (n, size) numbers for a
            :class:`fastinc.features.Dense`; for each item its categories, or one, or None, for a
            :class:`fastinc.features.Categorical`. What is left out is 0. None: the items are known, and start as random
            as others.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A wrong length, dtype, value or name; nothing has changed.

        Examples
        --------
        >>> import fastinc as fi
        >>> model = fi.Recommender(item_features={"kind": fi.features.Categorical()})
        >>> _ = model.add_items(["tea", "milk", "ale"], {"kind": ["hot", "cold", "cold"]})
        >>> ids, scores = model.recommend("ann", k=3)
        >>> sorted(ids.tolist())
        ['ale', 'milk', 'tea']
        """
        if np.ndim(items) == 0:
            items = [items]
        ids = self._item_ids.check(items)
        parts = None if features is None else self._item_features.encode(features, len(ids))
        self._item_ids.encode(ids, add=False)  # refuses what isn't UTF-8
        if parts is not None and not self._item_features.schema:
            raise ValueError("features: this model has no item_features")
        with self._adding_ids():
            self._core.add_items(self._item_ids.encode(ids, add=True), parts)
        return self

    def recommend(
        self,
        users: Any,
        k: int = 10,
        at: float | None = None,
        exclude_seen: bool = True,
        exclude: Any = None,
        explore: float | None = None,
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return the k best items for each user, best first, a share of the places given to new items.

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
        explore
            Each place of a list is one to explore with this probability: the last ones of the list, in order of score.
            Half of them are for an item drawn from the new ones (of fewer than `explore_below` events) that the list
            may have, the others for the best of four. Where there are none the list stays as it is. Another list draws
            others. Default the constructor's.

        Returns
        -------
        ids
            (n, k) item ids, padded with -1 (or "") where fewer exist; (k,) for one user.
        scores
            (n, k) float32, padded with -inf; (k,) for one user.

        Examples
        --------
        >>> import fastinc as fi
        >>> model = fi.Recommender(explore=0.05).partial_fit([1] * 9, ["a", "b", "c"] * 3).add_items(["new"])
        >>> sum("new" in model.recommend(2, k=3)[0] for _ in range(1000)) > 50
        True
        """
        share = self._config["explore"] if explore is None else as_probability(explore, "explore")
        if share == 0.0:
            return super().recommend(users, k, at, exclude_seen, exclude)
        explore_lists = functools.partial(self._core.explore, share=share)
        return self._recommended(users, k, at, exclude_seen, exclude, explore_lists)

    def boost_learning_rate(self, factor: float, events: int) -> None:
        """Learn the next events at a multiple of the learning rate, and all after them as before.

        A group of events (`batch_size`) that one call learns has the rate of its first.

        ``optimizer.lr`` stays what it is. A boost under way is replaced; a checkpoint keeps it.

        Parameters
        ----------
        factor
            Of the learning rate, > 0.
        events
            How many, >= 0; 0 ends a boost.

        Examples
        --------
        >>> import fastinc as fi
        >>> model = fi.Recommender(dim=8, optimizer=fi.SGD(lr=0.5))
        >>> model.boost_learning_rate(3, events=2)
        >>> rates = []
        >>> for item in range(3):
        ...     rates.append(model.learning_rate)
        ...     _ = model.partial_fit(1, item)
        >>> rates
        [1.5, 1.5, 0.5]
        """
        self._core.boost_lr(as_number(factor, "factor"), as_whole(events, "events", 0, 2**53))

    def snapshot(self) -> Snapshot:
        """Return a copy of all rows' weights and optimizer state, for :meth:`restore`.

        It takes the memory of the rows themselves (``snapshot.nbytes``). Answers go on meanwhile; learning waits.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.Recommender().partial_fit(1, 10).snapshot().events
        1
        """
        return Snapshot(self._core.snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to the rows of a snapshot of this model; what happened since stays known.

        Rows that the snapshot holds get their weights and optimizer state back; those made since start again, as if
        new and without anchors. Histories, ids, counters, the clock, a boost, other anchors and the optimizer's
        parameters stay as they are. Rows written since the snapshot are written once more: they get a new version,
        :meth:`EmbeddingTable.changes` tells of them, and an index over :attr:`item_table` answers from them at once.

        Parameters
        ----------
        snapshot
            Of this model.

        Raises
        ------
        ValueError
            It is another model's; the message says what differs. Nothing has changed.

        Examples
        --------
        >>> import fastinc as fi
        >>> model = fi.Recommender(dim=8).partial_fit([1, 1], [10, 11])
        >>> snapshot, before = model.snapshot(), model.predict(2, 10)
        >>> _ = model.partial_fit([2] * 50, [11] * 50)
        >>> model.restore(snapshot)
        >>> model.n_events, bool(model.predict(3, 10) == before)
        (52, True)
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"snapshot = {snapshot!r} must be a Snapshot")
        self._core.restore(snapshot._core)

    def __reduce__(self) -> Any:
        raise TypeError("a Recommender is not pickled: fastinc.checkpoint.save and load keep it whole")

    def memory_usage(self) -> dict[str, int]:
        """Return allocated bytes by part: the tables, histories, ids, what is known of items, scratch, and their total.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.Recommender().memory_usage()["histories"]
        0
        """
        parts = self._core.memory_usage()
        total = parts.pop("total")
        ids = self._user_ids.memory_usage() + self._item_ids.memory_usage()
        return {**parts, "ids": ids, "total": total + ids}

    def stats(self) -> dict[str, int]:
        """Return counters: users, items and new ones of them (of fewer events than `explore_below`), events, skipped
        ones (a step would not have been finite), limited ones.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.Recommender().stats()["events"]
        0
        """
        return {
            "users": self.n_users,
            "items": self.n_items,
            "new_items": self._core.new_item_count,
            "events": self.n_events,
            "skipped": self._core.skipped_events,
            "limited": self._core.limited_events,
        }

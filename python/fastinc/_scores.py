"""What a recommender's rows say: scores, what they are made of, and the vectors themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc import _core
from fastinc._arguments import as_whole
from fastinc._stream import StreamModel, _request_time
from fastinc.explanation import Explanation
from fastinc.optimizers import Optimizer
from fastinc.table import EmbeddingTable


class ScoringModel(StreamModel):
    """A stream model whose score is an inner product of a user's and an item's vector."""

    _core: _core.Recommender
    _optimizer: Optimizer

    @property
    def item_table(self) -> EmbeddingTable:
        """Item rows, (dim + 1): vector and bias. Keyed by item code (:meth:`item_codes`); only the model writes it."""
        return EmbeddingTable._view(self._core.items, self._optimizer, "Recommender")

    def predict(self, users: Any, items: Any, at: float | None = None) -> NDArray[np.float32]:
        """Return the score of each (user, item) pair; nothing is learned or allocated for unknown ids.

        Parameters
        ----------
        users, items
            (n,) ids, or one of each.
        at
            Request time in seconds; default the latest event's.

        Returns
        -------
        numpy.ndarray
            (n,) float32: a probability for loss "logistic", in label units for "mse", else a score. An unknown
            item scores as one without vector and bias.

        Examples
        --------
        >>> import fastinc as fi
        >>> model = fi.Recommender(loss="mse").partial_fit([1, 1], [10, 11], labels=[4.0, 2.0])
        >>> model.predict([1], [99]).tolist()
        [3.0]
        """
        single = np.ndim(users) == 0 and np.ndim(items) == 0
        user_codes = self._user_ids.encode(np.atleast_1d(users), add=False)
        item_codes = self._item_ids.encode(np.atleast_1d(items), add=False)
        if len(user_codes) != len(item_codes):
            raise ValueError(f"items has length {len(item_codes)}; users has {len(user_codes)}")
        scores = self._core.predict(user_codes, item_codes, _request_time(at))
        return scores[0] if single else scores

    def explain(self, user: Any, item: Any, at: float | None = None) -> Explanation:
        """Return what the score of an item for a user is made of: the parts of the formula, by past item.

        Parameters
        ----------
        user, item
            One id of each.
        at
            Request time in seconds; default the latest event's.

        Returns
        -------
        Explanation
            Its parts add up to the score in float64. :meth:`predict` gives it in float32 (for loss "logistic" its
            sigmoid), and so does :meth:`recommend`, less the offset, which is the same for all items. All but the
            offset are 0 for an unknown item.

        Examples
        --------
        >>> import fastinc as fi
        >>> model = fi.Recommender().partial_fit(["ann", "ann", "bob"], ["tea", "milk", "tea"])
        >>> found = model.explain("ann", "milk")
        >>> [name for name, _ in found.items], abs(found.score - model.predict("ann", "milk")) < 1e-5
        (['milk', 'tea'], np.True_)
        """
        users, items = self._user_ids.encode([user], add=False), self._item_ids.encode([item], add=False)
        parts = self._core.explain(int(users[0]), int(items[0]), _request_time(at))
        past = self._item_ids.decode(parts.pop("items")).tolist()
        return Explanation(item=item, items=tuple(zip(past, parts.pop("shares").tolist(), strict=True)), **parts)

    def similar_items(self, items: Any, k: int = 10) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return the k items nearest to each item by cosine of their vectors, itself left out.

        Parameters
        ----------
        items
            (n,) ids, or one.
        k
            Neighbours per item, >= 1.

        Returns
        -------
        ids
            (n, k) item ids, padded with -1 (or ""); all padding for an unknown item. (k,) for one item.
        scores
            (n, k) float32 cosines, padded with -inf.

        Examples
        --------
        >>> import fastinc as fi
        >>> model = fi.Recommender().partial_fit(["ann", "ann"], ["tea", "milk"])
        >>> model.similar_items("tea", k=1)[0].tolist()
        ['milk']
        """
        single = np.ndim(items) == 0
        codes = self._item_ids.encode(np.atleast_1d(items), add=False)
        neighbours, scores = self._core.similar_items(codes, as_whole(k, "k", 1))
        ids = self._item_ids.decode(neighbours)
        return (ids[0], scores[0]) if single else (ids, scores)

    def user_vectors(self, users: Any, at: float | None = None) -> NDArray[np.float32]:
        """Return (n, dim + 1) query vectors: their inner product with a row of :attr:`item_table` is the score.

        Parameters
        ----------
        users
            (n,) ids.
        at
            Request time in seconds; default the latest event's.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.Recommender(dim=4).user_vectors([1]).tolist()
        [[0.0, 0.0, 0.0, 0.0, 1.0]]
        """
        codes = self._user_ids.encode(np.atleast_1d(users), add=False)
        return self._core.user_vectors(codes, _request_time(at))

    def item_codes(self, items: Any) -> NDArray[np.int64]:
        """Return the ids of `items` in :attr:`item_table`; -1 for items neither seen nor added."""
        return self._item_ids.encode(np.atleast_1d(items), add=False)

    def item_events(self, items: Any) -> NDArray[np.int64]:
        """Return how many events items had: (n,) int64, 0 for an item never seen. Below `explore_below` an item is new.

        Events that `max_influence` or `trusted_after` ruled out count, too. Of checkpoints of before they were counted
        all items have `explore_below`.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.Recommender().partial_fit([1, 2, 2], [10, 10, 11]).item_events([10, 11, 12]).tolist()
        [2, 1, 0]
        """
        return self._core.item_events(self.item_codes(items))

    def items_of(self, codes: Any) -> NDArray[Any]:
        """Return the item ids of codes, as :attr:`item_table` and an index over it know them."""
        array = np.asarray(codes)
        if array.size and (array.dtype.kind != "i" or array.min() < -1):
            raise ValueError(f"codes = {codes!r} must be item codes, or -1")
        return self._item_ids.decode(array.astype(np.int64))

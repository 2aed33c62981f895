"""What a recommender takes over from before: vectors that items start with, and rows that it is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastinc._scores import ScoringModel

if TYPE_CHECKING:
    from typing_extensions import Self


class TransferModel(ScoringModel):
    """A scoring model whose items can be given vectors, and whose rows can be pulled back to what they were."""

    def warm_start(self, items: Any, vectors: Any, biases: Any = None) -> Self:
        """Set the vectors V and biases b of items, such as a pretrained model's; they learn on from there.

        Items that aren't known become known, and can be recommended at once, as :meth:`add_items` makes them; those
        that are get fresh optimizer state. Their rows change in one version of :attr:`item_table`, and an index over it
        answers from them at once. With an `anchor`, these vectors and biases are what the rows are pulled to from then
        on (Li et al. 2018; :meth:`set_anchor`). An item with features that had no event yet keeps the vector given
        instead of following its features. Other rows stay as they are: X and Y of these items, users, the network.

        A user's sum counts items by V, too (`tie_weight`), so vectors whose inner products tell which items go together
        serve from a user's first event on. Scores are what the loss says they are: for "softmax", inner products that
        are far too large or small for logits take learning to mend.

        Parameters
        ----------
        items
            (n,) ids, or one; of equal ids the last wins.
        vectors
            (n, dim) float32, finite: NumPy, torch, anything with DLPack. Of another model of this kind:
            ``old.item_table.lookup(old.item_codes(items))[:, :-1]``, and the last column is the biases.
        biases
            (n,) float32, finite. None: 0.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A wrong length, shape, dtype or value; nothing has changed.

        References
        ----------
        X. Li, Y. Grandvalet, F. Davoine: Explicit inductive bias for transfer learning with convolutional networks.
        ICML 2018.

        Examples
        --------
        >>> import numpy as np, fastinc as fi
        >>> pretrained = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], dtype=np.float32)
        >>> model = fi.Recommender(dim=2).warm_start(["tea", "coffee", "ale"], pretrained)
        >>> model.similar_items("tea", k=1)[0].tolist()
        ['coffee']
        >>> model.item_table.lookup(model.item_codes("ale")).tolist()
        [[0.0, 1.0, 0.0]]
        """
        if np.ndim(items) == 0:
            items = [items]
        # A call of once: parts of arrays are copied here, where updates refuse them.
        vectors, biases = (np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x for x in (vectors, biases))
        ids = self._item_ids.check(items)
        self._item_ids.encode(ids, add=False)  # refuses what isn't UTF-8
        self._core.check_vectors(len(ids), vectors, biases)
        with self._adding_ids():
            self._core.warm_start(self._item_ids.encode(ids, add=True), vectors, biases)
        return self

    def set_anchor(self) -> None:
        """Make every row as it is now what it is pulled to from the next event on; called again, it moves the anchors.

        Call it when a model that was pretrained goes live: in every optimizer step, a row w with anchor a has
        ``anchor * (w - a)`` added to its gradient, which is that of ``anchor / 2 * |w - a|**2``, the L2-SP penalty of
        Li et al. (2018). It is added after `max_grad_norm` has shortened the data's gradient, once a step whatever the
        number of events in it, and like the weight decay of sparse optimizers only to rows that have a gradient: a row
        that no event touches doesn't move. Rows made later have no anchor, so new items and users learn freely. All
        tables have anchors: items, contexts, users, long-term vectors, situations, the network and the features' map.
        Items that follow their features, having had no event, have none.

        Anchors take the memory of the rows' weights (:meth:`memory_usage`). Checkpoints keep them; :meth:`restore`
        takes rows back and leaves their anchors where they are; rows made since the snapshot lose theirs.

        Raises
        ------
        ValueError
            The model was made with ``anchor=0``, so it would have no effect.

        Examples
        --------
        >>> import fastinc as fi
        >>> events = fi.datasets.synthetic(2000, n_users=100, n_items=200, seed=1)
        >>> moved = []
        >>> for anchor in (0.01, 10.0):
        ...     model = fi.Recommender(dim=16, anchor=anchor).partial_fit_events(events[:1000])
        ...     model.set_anchor()
        ...     before = model.item_table.lookup(range(100))
        ...     _ = model.partial_fit_events(events[1000:])
        ...     moved.append(abs(model.item_table.lookup(range(100)) - before).mean())
        >>> bool(moved[1] < moved[0] / 2)
        True
        """
        self._core.set_anchor()

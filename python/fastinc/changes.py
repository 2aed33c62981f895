"""What a follower of a table is told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Changes"]


@dataclass(frozen=True)
class Changes:
    """What changed in a table after a version.

    Attributes
    ----------
    version
        The table's version this is as of: pass it as `since` next time.
    updated
        Ids written since and still there, int64.
    removed
        Ids removed or evicted since and not there now, int64, sorted.
    reset
        True when the table no longer knows which rows went after `since`: `updated` is then every row there is,
        `removed` is empty, and whatever else you hold is gone. The log holds some of the newest removals (up to 1
        for 16 rows, 32,768 in a table of less than a million) and versions (up to 1 for 64 rows, at least 16,384),
        and nothing from before the table was copied or restored.

    Notes
    -----
    While other threads write, a row may already be newer than `version`, or gone, and an id may be in both lists: the
    next call tells of it again. So whoever applies `removed`, then `updated`, as below, is in step with the table as
    soon as a call finds nothing new.

    Examples
    --------
    A dict kept in step with a table:

    >>> import numpy as np, fastinc as fi
    >>> table, held, seen = fi.EmbeddingTable(dim=2), {}, 0
    >>> def follow():
    ...     changes = table.changes(since=seen)
    ...     if changes.reset:
    ...         held.clear()
    ...     for id in changes.removed.tolist():
    ...         held.pop(id, None)
    ...     held.update(zip(changes.updated.tolist(), table.lookup(changes.updated)))
    ...     return changes.version
    >>> _ = table.update([1, 2], np.ones((2, 2), dtype=np.float32))
    >>> seen = follow()
    >>> _ = table.remove([1])
    >>> seen = follow()
    >>> sorted(held)
    [2]
    """

    version: int
    updated: NDArray[np.int64]
    removed: NDArray[np.int64]
    reset: bool = False

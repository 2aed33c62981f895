"""What a stream is: batches of events, each with the position behind it."""

from __future__ import annotations

import abc
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastinc._arguments import as_number, as_whole

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Batch", "GapError", "Rejected", "Source", "check_read", "log"]

#: Lost connections, gaps and the like are told here.
log = logging.getLogger("fastinc.stream")


class GapError(ValueError):
    """The stream no longer has what comes after the position: it was trimmed, truncated, replaced or emptied.

    Examples
    --------
    >>> import fastinc as fi
    >>> issubclass(fi.stream.GapError, ValueError)
    True
    """


@dataclass(frozen=True)
class Rejected:
    """An event that could not be understood, or that the model refused.

    Parameters
    ----------
    raw
        The event as it came; bytes that are no UTF-8 are lone surrogates (``surrogateescape``).
    reason
        What is wrong with it.
    where
        File and line, or the entry's id, or partition and offset.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.stream.Rejected("7;8", "not JSON", "clicks.jsonl:3").reason
    'not JSON'
    """

    raw: str
    reason: str
    where: str


@dataclass(frozen=True, eq=False)
class Batch:
    r"""Some events of a stream, in its order, and the position after them.

    Columns that aren't of one length are a ValueError.

    Parameters
    ----------
    users, items
        (n,) ids: int64, or an object array of str.
    labels
        (n,) float32, or None: a stream's events all have labels, or none of them. Without events: either.
    timestamps
        (n,) float64 seconds, or None, likewise.
    wheres
        n places, as in `Rejected`.
    position
        Where the stream is after this batch: JSON, for `Source.seek`. None of it has been read twice.
    rejected
        What lay between these events and was malformed.

    Examples
    --------
    >>> import pathlib, tempfile, fastinc as fi
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "clicks.csv"
    >>> _ = file.write_text("user,item\n7,8\n9\n")
    >>> with fi.stream.open(file) as source:
    ...     batch = source.read(10, timeout=0.0)
    >>> len(batch), batch.users.tolist(), batch.rejected[0].where, batch.position["line"]
    (1, [7], 'clicks.csv:3', 3)
    """

    users: npt.NDArray[Any]
    items: npt.NDArray[Any]
    labels: npt.NDArray[np.float32] | None
    timestamps: npt.NDArray[np.float64] | None
    wheres: Sequence[str]
    position: Any
    rejected: tuple[Rejected, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.users)
        for name in ("items", "labels", "timestamps", "wheres"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise ValueError(f"{name} has {len(column)} entries, and users has {n}: each event has one")

    def __len__(self) -> int:
        return len(self.users)


class Source(abc.ABC):
    """A stream of events that can go on from a position.

    Sources *pull*: they read what is asked for and (but for the bounded buffers that each names) nothing ahead of it,
    so whoever is slower than the stream holds one batch of it and no more. One thread at a time.

    A source of your own needs `read` and `seek`. One that ends must override `ended` as well, or `fastinc.stream.train`
    waits for more for ever. `commit` is called after each save. One that reads files says so in `reads`.

    Attributes
    ----------
    name : str
        What to call the stream in messages, without passwords; "stream" unless you say so.
    lost : int
        Events that are known to have been in the stream and were gone before they were read: what was trimmed from a
        Redis stream or expired in Kafka. Files don't know how many there were. 0 unless the source counts.
    redelivered : int
        Events that came once more, as after a lost acknowledgement, and were recognised and left out. 0 likewise.

    Examples
    --------
    >>> import fastinc as fi
    >>> import numpy as np
    >>> class Numbers(fi.stream.Source):
    ...     name, n = "numbers", 0
    ...     def read(self, max_events, timeout):
    ...         ids = np.arange(self.n, min(self.n + max_events, 100))
    ...         if not len(ids):
    ...             return None
    ...         self.n += len(ids)
    ...         return fi.stream.Batch(ids, ids % 10, None, None, [f"number {n}" for n in ids], self.n)
    ...     def seek(self, position):
    ...         self.n = position
    ...     @property
    ...     def ended(self):
    ...         return self.n == 100
    >>> with Numbers() as source:
    ...     source.seek(97)
    ...     batch = source.read(2, timeout=0.0)
    ...     batch.users.tolist(), batch.position, len(source.read(2, timeout=0.0)), source.ended
    ([97, 98], 99, 1, True)
    """

    name: str = "stream"
    lost: int = 0
    redelivered: int = 0

    @abc.abstractmethod
    def read(self, max_events: int, timeout: float) -> Batch | None:
        """Return the next events, as soon as there are any.

        Parameters
        ----------
        max_events
            At most so many, malformed ones included, >= 1.
        timeout
            Seconds to wait for the first, >= 0; a lost connection is waited for, too. An answer that a server owes may
            hold it up for longer: Redis and Kafka say how long.

        Returns
        -------
        Batch
            At least one event or one that was rejected; or None, when nothing came in time, or never will (`ended`).

        Raises
        ------
        GapError
            What comes next is gone.
        """

    @abc.abstractmethod
    def seek(self, position: Any) -> None:
        """Go on after a batch.

        Parameters
        ----------
        position
            The `position` of that batch.

        Raises
        ------
        ValueError
            It is no position in this stream, or (GapError) the stream no longer has what comes after it.
        """

    def commit(self, position: Any) -> None:  # noqa: B027
        """Tell the stream that all up to a position is saved: it need not keep that for this reader.

        `fastinc.stream.train` calls it after each save. A stream that keeps no accounts need not override it.

        Parameters
        ----------
        position
            The `position` of a batch. Nothing is raised when the stream can't be told; it is next time.
        """

    def reads(self, path: Path) -> bool:
        """Whether a file's lines are events of this stream, or would be: no dead letters may be written there.

        Parameters
        ----------
        path
            Of a file, which need not be there; without symbolic links.

        Returns
        -------
        bool
            False unless it is overridden: most streams read no files.
        """
        return False

    @property
    def ended(self) -> bool:
        """Whether nothing will ever come again, as at the end of a file that isn't followed; asked when nothing came.

        False unless it is overridden: `fastinc.stream.train` then never returns by itself.
        """
        return False

    def close(self) -> None:  # noqa: B027
        """Let go of files and connections."""

    #: Set by sources that can't be used after `close`.
    _closed: bool = False

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.name} is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_read(max_events: int, timeout: float) -> tuple[int, float]:
    """Check the arguments of `Source.read`."""
    most, seconds = as_whole(max_events, "max_events", 1), as_number(timeout, "timeout")
    if not 0.0 <= seconds < float("inf"):
        raise ValueError(f"timeout = {timeout} must be finite seconds, 0 or more")
    return most, seconds

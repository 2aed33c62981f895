"""When to try again what failed, and how often to tell of it."""

from __future__ import annotations

import random
import time

from fastinc.stream._source import log

__all__ = ["Backoff", "Told", "times"]

#: Seconds before the second attempt, doubled with every further one, and the most there are.
_FIRST, _MOST = 0.05, 10.0
#: Seconds in which the same is told once, and how many things are remembered as told.
_QUIET, _REMEMBERED = 10.0, 64


class Told:
    """What was told a moment ago: a server that is away must not fill the log."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}  # when it was told, and how often it came since

    def due(self, what: str) -> int:
        """Return how often it came since it was told, this time included; 0: that was less than 10 s ago."""
        now = time.monotonic()
        at, count = self._last.get(what, (-_QUIET, 0))
        if now - at < _QUIET:
            self._last[what] = at, count + 1
            return 0
        if len(self._last) >= _REMEMBERED:
            self._last.clear()
        self._last[what] = now, 0
        return count + 1


def times(count: int) -> str:
    """Return what to tell of a count of `Told.due` behind the text."""
    return f" ({count} times since the last)" if count > 1 else ""


class Backoff:
    """Waits between attempts, twice as long every time, up to 10 s.

    Parameters
    ----------
    name
        Of what is tried, for messages.
    give_up
        Seconds after which `failed` raises; None: never.
    """

    def __init__(self, name: str, give_up: float | None = None) -> None:
        self._name, self._give_up = name, give_up
        self._attempts = 0
        self._since = self._next = 0.0
        self._told, self._has_told = Told(), False

    def failed(self, error: BaseException, since: float | None = None) -> None:
        """Note that an attempt failed; raise ConnectionError where it is time to give up.

        Parameters
        ----------
        error
            Why. The same is told at most once in 10 s.
        since
            `time.monotonic()` when the attempt began, where it waited for an answer; None: it failed at once.
        """
        now = time.monotonic()
        if self._attempts == 0:
            self._since = now if since is None else since
        if self._give_up is not None and now - self._since >= self._give_up:
            raise ConnectionError(f"{self._name} has been away for {now - self._since:.0f} s: {error}") from error
        delay = min(_MOST, _FIRST * 2.0 ** min(self._attempts, 20)) * random.uniform(0.5, 1.0)
        self._attempts += 1
        self._next = now + delay
        count = self._told.due(str(error))
        if count:
            self._has_told = True
            log.warning("%s: %s%s; attempt %d in %.1f s", self._name, error, times(count), self._attempts + 1, delay)

    @property
    def left(self) -> float:
        """Seconds until it gives up; infinite where it never does."""
        if self._give_up is None:
            return float("inf")
        return self._give_up - (time.monotonic() - self._since if self._attempts else 0.0)

    def succeeded(self) -> None:
        """Note that all is well."""
        if self._has_told:
            log.warning("%s: back after %.1f s", self._name, time.monotonic() - self._since)
        self._attempts, self._has_told = 0, False
        self._next = 0.0

    def wait(self, seconds: float) -> bool:
        """Wait until the next attempt is due, but no longer than `seconds`; return whether it is."""
        left = self._next - time.monotonic()
        if left > seconds:
            time.sleep(seconds)
            return False
        if left > 0:
            time.sleep(left)
        return True

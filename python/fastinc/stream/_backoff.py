"""When to try again what failed."""

from __future__ import annotations

import random
import time

from fastinc.stream._source import log

__all__ = ["Backoff"]

#: Seconds before the second attempt, doubled with every further one, and the most there are.
_FIRST, _MOST = 0.05, 10.0


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

    def failed(self, error: BaseException) -> None:
        """Note that an attempt failed; raise ConnectionError where it is time to give up."""
        now = time.monotonic()
        if self._attempts == 0:
            self._since = now
        if self._give_up is not None and now - self._since >= self._give_up:
            raise ConnectionError(f"{self._name} has been away for {now - self._since:.0f} s: {error}") from error
        delay = min(_MOST, _FIRST * 2.0 ** min(self._attempts, 20)) * random.uniform(0.5, 1.0)
        self._attempts += 1
        self._next = now + delay
        log.warning("%s: %s; attempt %d in %.1f s", self._name, error, self._attempts + 1, delay)

    def succeeded(self) -> None:
        """Note that all is well."""
        if self._attempts:
            log.warning("%s: back after %.1f s", self._name, time.monotonic() - self._since)
        self._attempts = 0
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

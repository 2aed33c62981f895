"""A thread that looks after an object as long as somebody else holds it."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Aside", "Background"]

#: Seconds without work after which a thread ends; the next work starts another.
IDLE = 5.0

_all: weakref.WeakSet[Background] = weakref.WeakSet()


class Aside:
    """Makes calls one after the other in a thread beside the caller's; where none is to be had, the caller makes them.

    That is so when the interpreter ends (in `atexit`), or the system has no more threads.

    Parameters
    ----------
    wanted
        False: the caller makes them all.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._pool = ThreadPoolExecutor(1) if wanted else None

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def submit(self, function: Callable[..., object], *arguments: Any) -> Future[Any]:
        """Make a call, now or soon; what it raises, the future does, or this."""
        if self._pool is not None:
            try:
                return self._pool.submit(function, *arguments)
            except RuntimeError:
                self._pool = None  # it has no thread, and must not get one: the call is in its queue
        done: Future[Any] = Future()
        done.set_result(function(*arguments))
        return done


class Background:
    """Calls a method of an object, in a thread of its own, whenever there is work.

    The thread holds no reference to the object while it waits, and ends after a while without work. It is gone in a
    forked child, where the next work starts another.

    Parameters
    ----------
    owner
        The object.
    method
        A function of the object, called as ``method(owner)``. It must not raise.
    name
        The thread's.
    """

    def __init__(self, owner: Any, method: Callable[[Any], None], name: str = "fastinc-live-index") -> None:
        self._owner = weakref.ref(owner)
        self._method = method
        self._name = name
        self._closed = False
        self.renew()
        _all.add(self)

    def renew(self) -> None:
        """Start over in a forked child, where there is no thread, and locks may be of those that are gone."""
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There is work. A thread that can't start is tried again by the next call."""
        thread = self._thread
        if self._work.is_set() and thread is not None and thread.is_alive():
            return
        with self._lock:
            if self._closed:
                return
            self._work.set()
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had, or the interpreter ends: searches do without
                return
            self._thread = thread

    def _run(self) -> None:
        while True:
            if not self._work.wait(IDLE):
                with self._lock:
                    if not self._work.is_set():
                        self._thread = None
                        return
            owner = self._owner()
            if owner is None or self._closed:
                return
            self._work.clear()
            self._method(owner)
            del owner

    def close(self) -> None:
        """End the thread, after what it is doing."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._work.set()
        if thread is not None:
            thread.join()


@atexit.register
def _close_all() -> None:
    """FAISS must not be at work while the interpreter is taken apart."""
    for background in list(_all):
        background.close()

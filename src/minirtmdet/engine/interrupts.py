"""Ctrl-C that never tears a training step in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """While entered, Ctrl-C and a request to end (SIGTERM) raise KeyboardInterrupt, but not within :meth:`held`.

    Outside the main thread, where Python takes no signals, it does nothing.

    >>> interrupts = Interrupts()
    >>> with interrupts:
    ...     try:
    ...         with interrupts.held():
    ...             signal.raise_signal(signal.SIGINT)
    ...             print("the step ends first")
    ...     except KeyboardInterrupt:
    ...         print("then it stops")
    the step ends first
    then it stops
    """

    def __init__(self) -> None:
        self._depth = 0
        self._came = False

    @property
    def came(self) -> bool:
        """Whether one waits for the end of a :meth:`held` block."""
        return self._came

    def __enter__(self) -> "Interrupts":
        self._came = False
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block end before an interrupt takes effect."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._came and not self._depth:
            self._came = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._depth:
            raise KeyboardInterrupt
        self._came = True

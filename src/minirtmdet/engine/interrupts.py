"""Ctrl-C, or the end of another process, takes effect between two training steps, where the state is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """While entered, Ctrl-C and a request to end (SIGTERM) raise KeyboardInterrupt, but not within :meth:`held`.

    Nor is the end of a loading process an error there.  PyTorch makes it one in a handler of SIGCHLD, wherever the
    program is; a request that goes to all processes of a run ends the loading ones first.

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
        self._came = self._ended = False

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
        """Let the block end before an interrupt takes effect, or the end of another process."""
        self._depth += 1
        try:
            with self._children_held():
                yield
        finally:
            self._depth -= 1
        if self._came and not self._depth:
            self._came = False
            raise KeyboardInterrupt

    @contextmanager
    def _children_held(self) -> Iterator[None]:
        """Call whoever listens for ended processes after the block, unless the run is about to end itself."""
        listener = self._child_listener()
        if listener is None:
            yield
            return
        self._ended = False
        signal.signal(signal.SIGCHLD, self._note_ended)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, listener)
        if self._ended and not self._came:
            listener(signal.SIGCHLD, None)

    def _child_listener(self) -> Callable[[int, FrameType | None], object] | None:
        """Who listens for ended processes, where that can be changed and is not already."""
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return None
        listener = signal.getsignal(signal.SIGCHLD)
        return listener if callable(listener) and listener != self._note_ended else None

    def _note_ended(self, number: int, frame: FrameType | None) -> None:
        self._ended = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._depth:
            raise KeyboardInterrupt
        self._came = True

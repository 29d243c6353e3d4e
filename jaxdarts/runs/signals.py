"""Signals that end a program: questions that a training answers between two steps, exceptions
elsewhere.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils


class Interruption(NamedTuple):
    """Signals that came in; `stepped` is set once a step has been taken, so that there is work to
    save.
    """

    signals: list[int]
    stepped: threading.Event

    def leaving(self, meeting: bool) -> int:
        """The signal to leave for, or 0. Several hosts leave together: at a `meeting`, a step that
        all of them know of.
        """
        number = self.signals[0] if self.signals else 0
        if jax.process_count() == 1:
            return number
        return int(np.max(multihost_utils.process_allgather(np.int32(number)))) if meeting else 0


NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that end a program: of a scheduler or `kill`, of Ctrl-C, of a terminal that closes.
"""


class Interrupted(KeyboardInterrupt):
    """One of these signals came in, by its number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def named(interrupt: KeyboardInterrupt) -> tuple[str, int]:
    """The name of the signal that an exception stands for, and the exit code of its end."""
    number = getattr(interrupt, "number", signal.SIGINT)
    return signal.Signals(number).name, 128 + number


def obeyed() -> tuple[signal.Signals, ...]:
    """The signals that are not to be ignored: under nohup a terminal may close."""
    return tuple(
        number
        for number in NUMBERS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    )


def interrupt(number: int, frame: Any = None) -> None:
    """A handler that ends what the program is doing, as Ctrl-C does in Python."""
    raise Interrupted(number)


def end_at_once(number: int, way: str) -> None:
    """Ends the process with one line."""
    script, name = Path(sys.argv[0]).name, signal.Signals(number).name
    cursor = "\033[?25h" if sys.stdout.isatty() else ""  # the live bar hides it
    left = f"{cursor}{script}: {name}: ended at once; {way}\n"
    os.write(sys.stderr.fileno(), left.encode(errors="backslashreplace"))
    os._exit(128 + number)


@contextlib.contextmanager
def interruptible(way: str, log: logging.Logger) -> Iterator[Interruption]:
    """Signals ask to save and leave. A second one ends the process at once, and so does one before
    any step; `way` tells how to continue.
    """
    interruption = Interruption([], threading.Event())

    def hear(number: int) -> None:
        if interruption.signals or not interruption.stepped.is_set():
            end_at_once(number, way)
        interruption.signals.append(number)
        name = signal.Signals(number).name
        log.info("%s: leaving after this step; once more ends at once", name)

    with _heard(hear, lambda *_: None):
        yield interruption


@contextlib.contextmanager
def interrupting(way: str, log: logging.Logger) -> Iterator[None]:
    """Signals raise `Interrupted` as soon as Python has the word. A second one ends the process at
    once; `way` tells how to continue.
    """
    heard: list[int] = []

    def hear(number: int) -> None:
        if heard:
            end_at_once(number, way)
        heard.append(number)
        log.info("%s: leaving; once more ends at once", signal.Signals(number).name)

    with _heard(hear, interrupt):
        yield


@contextlib.contextmanager
def _heard(hear: Callable[[int], None], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Calls `hear` with every signal, and `handler` in the main thread.

    A thread listens, because Python's own handlers would wait for the compiler, for minutes.
    """
    numbers = obeyed()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while number := int.from_bytes(os.read(reader, 1)):
            if number in numbers:
                hear(number)

    old_writer = signal.set_wakeup_fd(writer)
    old = {number: signal.signal(number, handler) for number in numbers}
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(old_writer)
        os.close(writer)
        listener.join()
        os.close(reader)

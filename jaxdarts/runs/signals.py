"""SIGTERM and Ctrl-C as questions that a training answers between two steps."""

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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


@contextlib.contextmanager
def interruptible(folder: Path, log: logging.Logger) -> Iterator[Interruption]:
    """SIGTERM and Ctrl-C ask to save and leave. A second one ends the process at once, and so does
    one before any step.

    A thread listens, because Python's own handlers would wait for the compiler, for minutes.
    """
    interruption = Interruption([], threading.Event())
    numbers = (signal.SIGTERM, signal.SIGINT)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    script = Path(sys.argv[0]).name

    def listen() -> None:
        while number := int.from_bytes(os.read(reader, 1)):
            if number not in numbers:
                continue
            name = signal.Signals(number).name
            if interruption.signals or not interruption.stepped.is_set():
                cursor = "\033[?25h" if sys.stdout.isatty() else ""  # the live bar hides it
                way = f"continue with --resume={shlex.quote(str(folder))}"
                left = f"{cursor}{script}: {name}: ended at once; {way}\n"
                os.write(sys.stderr.fileno(), left.encode())
                os._exit(128 + number)
            interruption.signals.append(number)
            log.info("%s: leaving after this step; once more ends at once", name)

    old = {number: signal.signal(number, lambda *_: None) for number in numbers}
    old_writer = signal.set_wakeup_fd(writer)
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield interruption
    finally:
        signal.set_wakeup_fd(old_writer)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(writer)
        listener.join()
        os.close(reader)

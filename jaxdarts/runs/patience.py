"""Log lines while something takes minutes, and how long it took the last time."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdarts import files
from jaxdarts.runs import fingerprint

EVERY = 30.0
"""Seconds between log lines."""


class Clock:
    """The seconds that the first step of a configuration took in earlier starts.

    They stand in a file of the cache of compiled programs, by the configuration's fingerprint.
    """

    def __init__(self, config: Any):
        self.path = Path(config.cache_dir).expanduser() / "first_steps.json"
        self.known = bool(config.cache_dir)
        try:
            self.key = fingerprint.of(config)
        except fingerprint.Unknown:
            self.known = False

    def last(self) -> float | None:
        """Seconds of the last time; None where nothing is known."""
        return self._all().get(self.key) if self.known else None

    def keep(self, seconds: float) -> None:
        """Writes the seconds down; without a folder to write in, nothing is kept."""
        if not self.known:
            return
        all_seconds = {**self._all(), self.key: round(seconds, 1)}
        newest = dict(list(all_seconds.items())[-1_000:])
        with contextlib.suppress(OSError):
            files.replace_text(self.path, json.dumps(newest, indent=1) + "\n")

    def _all(self) -> dict[str, float]:
        try:
            return files.read_json(self.path, dict[str, float])
        except (OSError, files.Damaged):
            return {}


@contextlib.contextmanager
def patience(log: logging.Logger, what: str, last: float | None = None) -> Iterator[None]:
    """Logs every `EVERY` seconds that something still goes on, and what it took the last time."""
    ended, start = threading.Event(), time.monotonic()
    before = f"; the last time it took {last:.0f} s" if last else ""

    def tell() -> None:
        while not ended.wait(EVERY):
            log.info("%s: %.0f s so far%s", what, time.monotonic() - start, before)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

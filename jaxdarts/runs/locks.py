"""One run at a time in a folder."""

import fcntl
import logging
from pathlib import Path

from jaxdarts.runs import writers


class Locked(Exception):
    """Another run has the folder open."""


def logger(folder: Path) -> logging.Logger:
    """Opens the log of a folder, with a lock on it that is there as long as it is open, and goes
    with a process that is killed.

    Raises:
        Locked: if a log of this folder is open.
    """
    log = writers.logger(folder / "log.txt")
    try:
        fcntl.flock(log.handlers[0].stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined]
    except BlockingIOError as error:
        writers.close_logger(log)
        raise Locked(str(folder)) from error
    except OSError as error:
        log.info("this file system has no locks (%s): start no second run into this folder", error)
    return log

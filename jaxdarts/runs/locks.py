"""A lock on a run folder, so that two runs never write into the same one.

The log is what is locked, by the kernel: the lock goes with a process that is killed, and no file
of its own stays behind.
"""

import fcntl
import logging
from pathlib import Path

from jaxdarts.runs import writers


class Locked(Exception):
    """Another run has the folder open."""


def logger(folder: Path) -> logging.Logger:
    """Opens the log of a folder and locks it until it is closed or the process ends.

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

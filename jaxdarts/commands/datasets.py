"""Data sets as commands name them."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxdarts.data import images
from jaxdarts.runs.process import Stop


def load(config: Any, read: Callable[..., Any] = images.load) -> Any:
    """The images that --dataset and --data_dir name.

    They are loaded by `images.load` or another function of the two, and resized by the former where
    the command has --image_size.
    """
    size = getattr(config, "image_size", None)
    streams = hasattr(config, "stream")  # then a TFDS set may have a size too
    if size is not None and not streams and not config.dataset.startswith("folder:"):
        reason = f"--dataset={config.dataset} is no folder:PATH"
        raise Stop(f"--image_size={size}: {reason}; leave --image_size out", 2)
    if read is images.load and size is not None and not streams:
        read = functools.partial(images.load, size=size)
    try:
        with one_line_warnings():
            return read(config.dataset, config.data_dir)
    except MemoryError as error:
        way = "take a smaller set" if size is None else f"give less than --image_size={size}"
        raise Stop(
            f"--dataset={config.dataset}: does not fit into the memory: {error}; {way}"
        ) from error
    except (OSError, ValueError, ImportError) as error:
        text = str(error).replace("--image_size=N", resizing(config, "N"))
        _, _, path = config.dataset.partition(":")
        is_there = bool(path) and Path(path).exists()  # what the files hold is at fault
        raise Stop(f"--dataset={config.dataset}: {text}", 1 if is_there else 2) from error


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Prints what is warned of on standard error, a line each, without the place in the program."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            lines = dict.fromkeys(" ".join(str(one.message).split()) for one in caught)
            for line in lines:
                print(f"warning: {line}", file=sys.stderr, flush=True)


def resizing(config: Any, size: Any) -> str:
    """How a command is told to resize the pictures of a folder."""
    if not hasattr(config, "image_size"):
        return "not by this command"
    return f"--image_size={size}"

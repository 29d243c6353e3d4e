"""Data sets as commands name them."""

from collections.abc import Callable
from typing import Any

from jaxdarts.data import images
from jaxdarts.runs.process import Stop


def load(config: Any, read: Callable[..., Any] = images.load) -> Any:
    """The images that --dataset and --data_dir name.

    They are loaded by `images.load` or another function of the two.
    """
    try:
        return read(config.dataset, config.data_dir)
    except (OSError, ValueError, ImportError) as error:
        raise Stop(f"--dataset={config.dataset}: {error}") from error

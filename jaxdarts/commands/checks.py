"""Checks of settings that several commands have."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxdarts import count
from jaxdarts.commands import datasets
from jaxdarts.runs import flags, trackers
from jaxdarts.runs.estimate import devices
from jaxdarts.runs.process import Stop
from jaxdarts.types import Choices


def check_flags(config: Any) -> None:
    """Refuses numbers that are out of their flags' bounds, and texts that no file system takes."""
    wrong = flags.wrong(config)
    if wrong:
        raise Stop(wrong, 2)
    for field in dataclasses.fields(config):
        if field.default is None and getattr(config, field.name) == "":
            raise Stop(f"--{field.name}=: must not be empty; leave the flag out", 2)
    for name in ("run_dir", "cache_dir"):
        folder = getattr(config, name, None)
        if folder and Path(folder).expanduser().exists() and not Path(folder).expanduser().is_dir():
            raise Stop(f"--{name}={folder}: must be a folder, and is a file", 2)
    trackers.check(getattr(config, "tracker", "none"))
    if getattr(config, "checkpoint", None) and not (config.test_only or config.resume):
        raise Stop(f"--checkpoint={config.checkpoint}: only with --test_only", 2)
    rate, last_rate = (getattr(config, f"learning_rate{end}", 0) for end in ("", "_min"))
    if last_rate > rate and not getattr(config, "resume", None):
        raise Stop(f"--learning_rate_min={last_rate}: above --learning_rate={rate}", 2)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in ("output", "page"):
        file = getattr(config, name, None)
        if file == "" != defaults[name]:
            raise Stop(f"--{name}=: must not be empty; leave the flag out", 2)
        if file and (
            file.endswith("/") or Path(file).is_dir() or not Path(file).absolute().parent.is_dir()
        ):
            raise Stop(f"--{name}={file}: must be a file in a folder that is there", 2)


def check_image_shape(
    config: Any,
    cells: Mapping[str, Choices],
    depth: int | None,
    shape: tuple[int, int, int],
    imagenet: bool = False,
) -> None:
    """Refuses images that the network of some cells cannot halve; names a size that it can."""
    try:
        count.check_cells(cells, depth, shape, imagenet)
    except ValueError as error:
        text, _, size = str(error).rstrip(")").partition(" (--image_size=")
        if hasattr(config, "image_size") and config.dataset.startswith("folder:"):
            text += f": {datasets.resizing(config, size)}"
        raise Stop(f"--dataset={config.dataset}: {text}", 2) from error


def check_seeds(config: Any, count: int) -> None:
    """Refuses a first seed of which `count` seeds do not fit into 31 bits."""
    if config.seed + count > flags.LARGEST + 1:
        raise Stop(f"--seed={config.seed}: seeds must be below {flags.LARGEST + 1}", 2)


def check_seeds_and_devices(config: Any) -> None:
    """Refuses seeds out of range, too many devices, and batches that do not divide over them."""
    check_seeds(config, config.num_seeds)
    if config.device is not None and not config.estimate:
        raise Stop(
            f"--device={config.device}: only with --estimate; a run takes the devices that are"
            " there",
            2,
        )
    if config.device is not None and config.num_devices not in (None, 1):
        raise Stop(
            f"--num_devices={config.num_devices}: --device is one device; leave --num_devices out",
            2,
        )
    number = len(devices(config))  # first: it keeps JAX from a GPU that --device does without
    local = jax.local_device_count()
    if config.num_devices is not None and config.num_devices > local:
        raise Stop(f"--num_devices={config.num_devices}: this machine has {local}", 2)
    if config.batch_size % number:
        raise Stop(f"--batch_size={config.batch_size}: does not divide over {number} devices", 2)

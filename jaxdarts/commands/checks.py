"""Checks of settings that several commands have."""

from typing import Any

import jax

from jaxdarts.runs.estimate import devices
from jaxdarts.runs.process import Stop


def check_numbers(config: Any, positive: str, not_negative: str) -> None:
    """Refuses settings, named in two lists, that are not positive or that are negative; NaN too."""
    for name in positive.split():
        if not getattr(config, name) > 0:
            raise Stop(f"--{name}={getattr(config, name)}: must be positive", 2)
    for name in not_negative.split():
        if not getattr(config, name) >= 0:
            raise Stop(f"--{name}={getattr(config, name)}: must not be negative", 2)


def check_seeds_and_devices(config: Any) -> None:
    """Refuses seeds out of range, more devices than there are, and batches that do not divide over
    them.
    """
    if config.seed + config.num_seeds > 2**31:
        raise Stop(f"--seed={config.seed}: seeds must be below {2**31}", 2)
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
    number = len(devices(config))
    found = jax.local_device_count()
    if config.num_devices is not None and not 1 <= config.num_devices <= found:
        raise Stop(f"--num_devices={config.num_devices}: this machine has {found}", 2)
    if config.batch_size % number:
        raise Stop(f"--batch_size={config.batch_size}: does not divide over {number} devices", 2)

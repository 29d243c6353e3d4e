"""Estimates of a run's memory on a device, from the compilation of its step."""

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdarts import aot, parallel
from jaxdarts.nn.primitives.platforms import every_platform
from jaxdarts.runs.loop import total_steps
from jaxdarts.runs.process import Stop


def devices(config: Any) -> list[Any]:
    """The devices that batches are split over.

    This machine's, or the one of --device, which can only be compiled for.
    """
    if config.device is None:
        return parallel.devices(config.num_devices)
    jax.config.update(
        "jax_platforms", "cpu"
    )  # before JAX looks for GPUs, takes their memory, or complains that there are none
    try:
        return list(aot.target(config.device).devices[:1])
    except (ValueError, RuntimeError) as error:
        raise Stop(f"--device={config.device}: {error}", 2) from error


def estimate(
    config: Any,
    step: parallel.OnDevices,
    devices: Sequence[Any],
    arguments: Any,
    length: Any,
    programs: int = 1,
) -> float:
    """Prints what a run would take, from the compilation of its step.

    Args:
        config: the run's; it names the epochs, and the device if that is not this machine's.
        step: mapped over `devices`.
        devices: those that the run was built for.
        arguments: of the shapes of one device.
        length: the steps an epoch, one number for all or one for each.
        programs: how many of the kind of `step` the run compiles.

    Returns:
        Megabytes that a step takes on a device; NaN where the compiler finds no room for it.
    """
    steps = f"{length:,}" if np.ndim(length) == 0 else f"about {np.mean(length):,.0f}"
    print(
        f"steps an epoch               {steps}, {config.epochs} epochs,"
        f" {total_steps(np.broadcast_to(length, config.epochs), config.max_steps):,} in all"
    )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), arguments
    )
    lower = "lower --batch_size" if config.remat else "lower --batch_size or give --remat"
    start = time.time()
    try:
        with contextlib.ExitStack() as stack:
            if config.device is not None:  # its own forms, and no cache that cannot read it back
                stack.enter_context(every_platform())
                stack.enter_context(aot.without_cache())
            compiled = step.compile(*abstract)
    except jax.errors.JaxRuntimeError as error:  # of a TPU's compiler, which places every array
        if config.device is None or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"does not fit in one {config.device}: {str(error).splitlines()[0]}; {lower}")
        return math.nan
    seconds, memory = time.time() - start, compiled.memory_analysis()
    taken = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    taken -= memory.alias_size_in_bytes  # donated arguments count once
    print(
        f"memory of a step{' (remat)' if config.remat else '        '}     {taken / 1e6:,.1f} MB a"
        " device"
    )
    print(
        f"compilation                  {seconds:.0f}"
        f" s{f', for {programs} lengths of windows' if programs > 1 else ''}"
    )
    if config.device is not None:
        print(f"kernels of a step            {aot.figures(compiled)['kernels']:,}")
        print(fits(config.device, taken, lower))
    return taken / 1e6


def fits(device: str, taken: int, lower: str) -> str:
    """Sentence that says whether `taken` bytes fit in the memory of a device.

    `lower` says what to do where they do not.
    """
    has = aot.target(device).memory
    size = f"{has / 2**30:,.0f} GiB"
    if taken > has:
        return f"does not fit: it needs {taken / 2**30:,.1f} GiB, one {device} has {size}; {lower}"
    if (
        device in aot.GPUS and taken > 0.75 * has
    ):  # what JAX takes of a GPU unless it is told otherwise
        return (
            f"fits in the {size} of one {device} with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95; JAX's"
            " default is 0.75"
        )
    return f"fits in the {size} of one {device}"

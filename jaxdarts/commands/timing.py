"""How long the parts of a program take, free of what it takes to call one.

A part may take a microsecond, and calling a compiled program takes ten or more. So a program has
several copies of the part, each with weights and states of its own, and the time of a part is the
difference between a program of many copies and one of few, divided by the difference of their
numbers. Programs are called in turns, so that a machine that slows down for a while slows all of
them down, and medians are taken over the turns.

Copies and not a loop: in a network every part runs once, and its code and weights are in no cache
by then. In a loop a separable convolution at 8x8x32 took 15 microseconds, as a copy 33. Of twelve
random networks of 8 channels and 5 cells, with one image on one core, sums of copies were wrong by
7 % in the mean (rank correlation 0.80), sums of turns of a loop by 19 % (0.64), and sums of single
calls less an empty one by 129 % (0.65).
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdarts.nn.primitives.barrier import once_on_cpu
from jaxdarts.runs import jitted

Call = Callable[[], Any]
"""Runs a program, and waits for its result."""
Clock = Callable[[], float]
"""() -> seconds; only differences count."""


FEW, MANY = 2, 8
"""Copies of a part in the two programs whose times are compared."""


def copied(function: Callable[..., jax.Array], inputs: Sequence[Any], number: int) -> Call:
    """A call of one program that runs a function a number of times, on inputs of its own each."""
    every = [jax.tree.map(lambda x: x.copy(), tuple(inputs)) for _ in range(number)]

    def run(every):
        total = jnp.float32(0)
        for one in every:
            # A barrier after each, as after each state of a cell: no copy is fused with the next.
            total = once_on_cpu(total + function(*one))
        return total

    compiled = jitted(run)
    return lambda: jax.block_until_ready(compiled(every))


def seconds_of_parts(
    parts: Sequence[tuple[Callable[..., jax.Array], Sequence[Any]]],
    repeats: int,
    clock: Clock = time.perf_counter,
    copied: Callable[..., Call] = copied,
) -> Float[np.ndarray, "repeats parts"]:
    """Seconds of every part in each of several rounds; below zero where the clock is too coarse.

    Args:
        parts: functions, and their inputs.
        repeats: number of rounds.
        clock: what time is read from.
        copied: (function, inputs, number of copies) -> a call.
    """
    calls = [copied(*part, number) for part in parts for number in (FEW, MANY)]
    seconds = seconds_of_calls(calls, repeats, clock)
    return (seconds[:, 1::2] - seconds[:, ::2]) / (MANY - FEW)


def seconds_of_calls(
    calls: Sequence[Call], repeats: int, clock: Clock = time.perf_counter
) -> Float[np.ndarray, "repeats calls"]:
    """Seconds of every call in each of several rounds; each is called once before, untimed."""
    for call in calls:
        call()
    rounds = []
    for _ in range(repeats):
        seconds = []
        for call in calls:
            call()  # after others ran, its weights are in no cache
            seconds.append(_seconds(call, clock))
        rounds.append(seconds)
    return np.array(rounds)


def _seconds(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


def median_time(call: Call, repeats: int) -> float:
    """Median of the seconds that a call takes; a first call, which may compile, does not count."""
    call()
    return statistics.median(_seconds(call, time.perf_counter) for _ in range(repeats))


@contextlib.contextmanager
def on_cores(number: int) -> Iterator[None]:
    """Computes on a number of cores, if JAX has not started yet, and if the system can do that.

    XLA gets as many threads as there are cores. With more of them they wait for each other: on one
    core with sixteen threads, a depthwise convolution of 9 microseconds took 20 to 70.

    Raises:
        ValueError: if the process has fewer cores.
    """
    threads, name = os.environ.get("PJRT_NPROC"), "PJRT_NPROC"
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if cores is not None:
        if number > len(cores):
            raise ValueError(f"this process has {len(cores)} of the machine's cores")
        os.sched_setaffinity(0, sorted(cores)[:number])
    os.environ[name] = str(number)
    try:
        yield
    finally:
        os.environ.pop(name)
        os.environ |= {} if threads is None else {name: threads}
        if cores is not None:
            os.sched_setaffinity(0, cores)

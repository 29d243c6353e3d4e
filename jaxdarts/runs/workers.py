"""Workers that run trials: this process, processes beside it, or a cluster.

The cluster is one that dask.distributed has been started on.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any, NamedTuple

from jaxdarts.discrete.studies import Here
from jaxdarts.runs.process import Stop

SECONDS = 30
"""How long a scheduler, and its first worker, may take to answer."""


class Workers(NamedTuple):
    """Somewhere for trials to run.

    open: a context that gives an executor; once more after it has broken.
    slots: trials to hand out at a time.
    """

    open: Callable[[], contextlib.AbstractContextManager[Executor]]
    slots: float


def find(workers: int, scheduler: str) -> Workers:
    """The cluster of a scheduler, or `workers` local processes, or this process.

    Raises:
        Stop: if the cluster is not there.
    """
    if scheduler:
        with client(scheduler) as cluster_client:
            try:
                cluster_client.wait_for_workers(1, SECONDS)
            except TimeoutError:
                raise Stop(
                    f"--scheduler={scheduler}: no worker has joined it; start some: dask worker"
                    f" {scheduler}",
                    2,
                ) from None
            return Workers(
                lambda: cluster(scheduler), math.inf
            )  # others may join; what they cannot take waits there
    return Workers(lambda: processes(workers), workers) if workers else Workers(Here, 1)


@contextlib.contextmanager
def processes(number: int) -> Iterator[Executor]:
    """Local processes, started afresh: JAX's threads do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, context, initializer=follow)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    else:
        pool.shutdown()


def follow() -> None:
    """Ends this process when its parent ends, however that happens; what a terminal sends to both
    is for the parent.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # `processes` has started this one

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def client(scheduler: str) -> Iterator[Any]:
    """A connection to a running cluster."""
    try:
        # Not every user has it, and it is slow to import.
        from distributed import Client
    except ImportError:
        raise Stop(
            f"--scheduler={scheduler}: needs dask.distributed, pip install 'jaxdarts[cluster]'", 2
        ) from None
    try:
        cluster_client = Client(scheduler, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise Stop(f"--scheduler={scheduler}: no scheduler answers there: {error}", 2) from error
    with cluster_client:
        yield cluster_client


@contextlib.contextmanager
def cluster(scheduler: str) -> Iterator[Executor]:
    """The cluster as an executor.

    It gives a trial whose worker dies to another one, four times at most.
    """
    with client(scheduler) as cluster_client:
        yield cluster_client.get_executor(pure=False)

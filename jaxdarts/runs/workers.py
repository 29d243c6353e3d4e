"""Workers that run trials: this process, processes beside it, or a cluster.

The cluster is one that dask.distributed has been started on.
"""

import contextlib
import logging
import math
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    InvalidStateError,
    ProcessPoolExecutor,
)
from typing import Any, NamedTuple

from jaxdarts.discrete.studies import Failure, Here
from jaxdarts.runs.process import Stop

ADDRESS = re.compile(r"((tcp|tls|wss?)://)?(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}", re.ASCII)
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
    if not ADDRESS.fullmatch(scheduler):
        raise Stop(f"--scheduler={scheduler}: no address; it must be like tcp://HOST:8786", 2)
    try:
        # Not every user has it, and it is slow to import.
        from distributed import Client
    except ImportError:
        raise Stop(
            f"--scheduler={scheduler}: needs dask.distributed, pip install 'jaxdarts[cluster]'", 2
        ) from None
    # What its loggers tell comes as an exception too.
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        cluster_client = Client(scheduler, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise Stop(f"--scheduler={scheduler}: no scheduler answers there: {error}", 2) from error
    with cluster_client:
        yield cluster_client


class Cluster(Executor):
    """A cluster as an executor, whose trials fail when its scheduler is lost.

    The cluster's futures alone may then wait for ever.
    """

    def __init__(self, cluster_client: Any):
        self.client = cluster_client
        self.executor = cluster_client.get_executor(pure=False)
        self.futures: set[Future] = set()
        self.left = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future = self.executor.submit(fn, *args, **kwargs)
        self.futures.add(future)
        future.add_done_callback(self.futures.discard)
        return future

    def _watch(self) -> None:
        while not self.left.wait(0.5):
            if self.client.status != "running":
                for future in list(self.futures):
                    with contextlib.suppress(InvalidStateError):  # it is done after all
                        future.set_exception(BrokenExecutor("the scheduler is lost"))


@contextlib.contextmanager
def cluster(scheduler: str) -> Iterator[Executor]:
    """The cluster as an executor.

    It gives a trial whose worker dies to another one, four times at most.

    Raises:
        Failure: if the scheduler does not answer.
    """
    with contextlib.ExitStack() as stack:
        try:
            cluster_client = stack.enter_context(client(scheduler))
        except Stop as stop:  # it was there when the study began
            raise Failure(str(stop)) from stop
        executor = Cluster(cluster_client)
        stack.callback(executor.left.set)
        yield executor

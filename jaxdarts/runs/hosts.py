"""One program on several hosts: the same command on each of them, told apart by --host.

Every host computes the same on its part of each batch. Only the first one writes: the others run in
a folder of their own that goes with them, and say nothing. Where a host is lost all of them end,
with one line.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdarts.runs.flags import NOT_NEGATIVE, POSITIVE, flag
from jaxdarts.runs.folder import folder_of
from jaxdarts.runs.process import Stop

READ_AGAIN = (
    "config.json",
    "metrics.jsonl",
    "alphas.npz",
    "seed-*/metrics.jsonl",
    "seed-*/alphas.npz",
)
"""Files of a run folder that a resumed run reads."""

LAST_WORDS = "import sys; sys.stdin.buffer.read() or sys.stderr.write(sys.argv[1])"
"""A process that says something for another one, unless that has said something itself before it
ended.
"""

HEARTBEAT = 60  # seconds without a sign of life after which JAX counts a host as lost
WAIT = 300.0  # seconds after which hosts that are not there yet are missing


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of a command that runs on several hosts."""

    TOPIC: ClassVar[str] = "hosts"

    coordinator: str | None = flag(
        None,
        "HOST:PORT of the first host, with a free port, to run on several hosts with the same"
        ' command on each; "auto" where JAX finds the hosts by itself (SLURM, Open MPI, TPU pods);'
        " default none, one host.",
        free=True,
    )
    num_hosts: int | None = flag(
        None,
        "Number of hosts, all with the same number of devices; needed with --coordinator=HOST:PORT"
        " only.",
        POSITIVE,
        free=True,
    )
    host: int | None = flag(
        None,
        "Number of this host, from 0; needed with --coordinator=HOST:PORT only.",
        NOT_NEGATIVE,
        free=True,
    )


@contextlib.contextmanager
def joined(config: Any, kind: str) -> Iterator[tuple[Any, Path | None]]:
    """Joins the hosts that --coordinator names, before JAX looks for devices.

    Yields the configuration to go on with, and the folder that the run has on the first host.
    """
    if config.coordinator is None:
        if config.num_hosts is not None or config.host is not None:
            raise Stop("--num_hosts, --host: need --coordinator=HOST:PORT", 2)
        yield config, None
        return
    connect(config)
    index = jax.process_index()
    folder = Path(of_first_host(str(folder_of(config, kind)).encode()).decode())
    config = dataclasses.replace(config, run_dir=str(folder))
    again = f"; continue on all hosts with --resume={shlex.quote(str(folder))}"
    aborted = (
        f"{Path(sys.argv[0]).name}: host {index}: ended at once, as when another host is"
        f" lost{again}\n"
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(last_words(aborted))
        if index:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxdarts-"))
            stack.enter_context(
                contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w")))
            )
            config = dataclasses.replace(
                config,
                run_dir=temporary,
                resume=temporary if config.resume else None,
                tracker="none",
            )
        if config.resume:
            hand_out(Path(config.run_dir))
        try:
            yield config, folder
        except Stop as stop:
            if index == 0:
                time.sleep(1)  # the others stop too, or they take this one's end for a loss
            raise Stop(f"host {index}: {stop}" if index else str(stop), stop.code) from stop
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            if not any(sign in str(error) for sign in ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED")):
                raise
            raise Stop(f"host {index}: another host was lost{again}") from error


@contextlib.contextmanager
def last_words(line: str) -> Iterator[None]:
    """Arranges for a last line where something ends this process at once.

    JAX ends it so when another host is lost.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as heard:
        helper = subprocess.Popen(
            [sys.executable, "-I", "-c", LAST_WORDS, line], stdin=heard, start_new_session=True
        )
    try:
        yield
    finally:
        os.write(writer, b".")
        os.close(writer)
        helper.wait()


def connect(config: Any) -> None:
    """Starts JAX on several hosts."""
    known = (config.coordinator, config.num_hosts, config.host)
    if config.estimate:
        raise Stop("--estimate: on one host; what a device takes is the same on several", 2)
    if config.coordinator == "auto":
        if known[1:] != (None, None):
            raise Stop(
                "--coordinator=auto: finds --num_hosts and --host by itself; leave them out", 2
            )
        known = (None, None, None)
    else:
        name, _, port = config.coordinator.rpartition(":")
        if not (name and port.isdecimal()):
            raise Stop(f"--coordinator={config.coordinator}: must be HOST:PORT, or auto", 2)
        if not 0 < int(port[:6]) < 65536:
            raise Stop(f"--coordinator={config.coordinator}: a port is 1 to 65535", 2)
        if (
            config.num_hosts is None
            or config.host is None
            or not 0 <= config.host < config.num_hosts
        ):
            raise Stop(
                f"--host={config.host}, --num_hosts={config.num_hosts}: needed are both, and 0 <="
                " host < num_hosts",
                2,
            )
        if config.host:
            reach(name, int(port))
        else:
            print(f"waiting for {config.num_hosts - 1} other hosts, for {WAIT:g} s", flush=True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of every save by one host alone
    try:
        jax.distributed.initialize(
            *known, initialization_timeout=int(WAIT), heartbeat_timeout_seconds=HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        raise Stop(f"--coordinator={config.coordinator}: {error}") from error


def reach(name: str, port: int, limit: float | None = None) -> None:
    """Waits until the first host listens; JAX would wait without a word, and then abort.

    Raises:
        Stop: if it does not within `limit` seconds, by default `WAIT`.
    """
    limit = WAIT if limit is None else limit
    address, deadline = f"{name}:{port}", time.monotonic() + limit
    print(f"waiting for the first host at {address}, for {limit:g} s at most", flush=True)
    while True:
        try:
            return socket.create_connection((name, port), timeout=2).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise Stop(
                    f"--coordinator={address}: no host listens there after {limit:g} s ({error});"
                    " start the one with --host=0, with a port that the others reach"
                ) from error
            time.sleep(0.5)


def of_first_host(data: bytes) -> bytes:
    """The first host's bytes, on every host."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.frombuffer(data.ljust(size, b"\0")[:size], np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()


def hand_out(folder: Path) -> None:
    """Gives every host the files of the first one's run folder that are read again."""
    paths = sorted(path for pattern in READ_AGAIN for path in folder.glob(pattern))
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    data = of_first_host(b"".join(path.read_bytes() for path in paths))
    for name, size in json.loads(of_first_host(json.dumps(sizes).encode())).items():
        if jax.process_index():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data[:size])
        data = data[size:]

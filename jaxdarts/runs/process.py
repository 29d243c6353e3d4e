"""A program as a process: errors in one line, settings of XLA and Python, and versions.

The versions say where a result comes from.
"""

import gc
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxdarts import parallel
from jaxdarts.runs import executables, signals


class Stop(Exception):
    """Ends the run with one line; everything written so far stays."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(" ".join(message.split()))
        self.code = code


def jitted(function: Callable, **options: Any) -> Any:
    """`jax.jit`, with what XLA should know of our programs."""
    return jax.jit(
        function, compiler_options=parallel.compiler_options(jax.default_backend()), **options
    )


def use_cache(config: Any) -> None:
    """Keeps compiled programs for the next start.

    Small ones as well: the initial weights of a supernet are two hundred of them, and compiling
    those takes seconds.
    """
    if config.cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(config.cache_dir).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def set_up() -> None:
    """Settings of XLA and Python that must be made before JAX starts; what the user has set stays.

    `jaxdarts.parallel.XLA_FLAGS`; threads enough for simulated devices; fewer garbage collections.
    A traced step is a million Python objects that live on, and Python looks through them again and
    again for garbage: a quarter of the tracing.
    """
    given = os.environ.get("XLA_FLAGS", "")
    added = [flag for flag in parallel.XLA_FLAGS.split() if flag.partition("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()
    # Simulated devices on few cores deadlock with fewer threads (jax 0.9 and 0.10).
    os.environ.setdefault("PJRT_NPROC", str(max(16, os.cpu_count() or 1)))
    # Here nobody but us defines what a program computes, so it is known by our source code.
    os.environ.setdefault(executables.SWITCH, "1")
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def start(main: Callable[[list[str]], None]) -> None:
    """Runs a script: one line and an exit code for whatever stops it."""
    script = Path(sys.argv[0]).name
    set_up()
    for number in signals.obeyed():
        signal.signal(number, signals.interrupt)
    try:
        main(sys.argv[1:])
    except Stop as stop:
        print(f"{script}: {stop}", file=sys.stderr, flush=True)
        # Not sys.exit: after a full disk tensorboardX would try again to write its buffer, and fail
        # with a traceback.
        os._exit(stop.code)
    except BrokenPipeError:  # what reads the output, such as `head`, has seen enough
        os._exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt as interrupt:
        name, code = signals.named(interrupt)
        print(f"{script}: {name}: ended before there was anything to save", file=sys.stderr)
        sys.exit(code)


def versions() -> dict[str, Any]:
    """Versions that a result must have to say where it comes from."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.local_devices()[0]
    return {
        "command": _command(),
        "commit": commit,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "device": f"{device.platform}: {device.device_kind}",
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """The name of this machine's CPU, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _command() -> str:
    """The command line of this process, with the script's path from the root of the repository."""
    script, root = Path(sys.argv[0]), Path(__file__).resolve().parents[2]
    flags = shlex.join(_without_paths(sys.argv[1:]))
    if script.name.startswith("jaxdarts "):
        return f"{script.name} {flags}".strip()
    script = script.resolve()
    name = (
        str(script.relative_to(root))
        if script.is_relative_to(root)
        else f"experiments/{script.name}"
    )
    return f"python {name} {flags}".strip()


def _without_paths(flags: Sequence[str]) -> list[str]:
    """Flags without those that name files of this machine, which are no part of a result."""
    names = "output page run_dir resume peer data_dir cache_dir table latency_table scheduler"
    path_flags = tuple(f"--{name}" for name in names.split())
    kept: list[str] = []
    value_of_path = False
    for flag in flags:
        # --scores is a file for discrete.py, names for score.py.
        is_path = flag.startswith(path_flags) or (flag.startswith("--scores") and "/" in flag)
        if not is_path and not value_of_path:
            kept.append(flag)
        value_of_path = is_path and "=" not in flag
    return kept

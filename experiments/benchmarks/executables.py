"""Programs compiled on one machine and run on another, by `jax.experimental.serialize_executable`.

The machine that compiles needs no device, only the plugin (`jaxdarts.aot`) and the same versions of jax and jaxlib.
JAX writes an executable as a pickle, and to read a pickle can run anything. The package reads none; these are files that
device.py wrote itself, in a folder that its user names, and nothing else should be read from there.
"""

import contextlib
import hashlib
import json
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

ROOT = Path(__file__).parents[2]


def versions() -> dict[str, str]:
    """What must be the same where a program is compiled and where it runs: versions of JAX, and the code."""
    code = hashlib.sha256()
    for path in sorted([*(ROOT / "jaxdarts").rglob("*.py"), ROOT / "experiments/benchmarks/bench.py"]):
        code.update(path.read_bytes())
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "code": code.hexdigest()[:16]}


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """Compiles without JAX's cache of compiled programs: XLA for CPUs cannot write again what it has read from there."""
    before = jax.config.jax_enable_compilation_cache

    def enable(value: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", value)
        compilation_cache.reset_cache()  # JAX looks at the setting once

    enable(False)
    try:
        yield
    finally:
        enable(before)


def save(compiled: Any, folder: Path, name: str, about: Mapping[str, Any]) -> int:
    """Writes a program, compiled `fresh`, and what it was compiled from and for; returns its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    data = lzma.compress(serialize_executable.serialize(compiled)[0], preset=1)
    (folder / f"{name}.bin").write_bytes(data)
    (folder / f"{name}.json").write_text(json.dumps({**versions(), **about}, indent=1) + "\n")
    return len(data)


def load(folder: Path, name: str, arguments: tuple, results: Any, about: Mapping[str, Any]) -> Any:
    """A program for the first device of this machine.

    Args:
        folder, name: where it lies.
        arguments, results: anything of the structure of its arguments and of what it returns.
        about: what must be the same as when it was saved, besides the versions.

    Raises:
        ValueError: if there is no such program, or it was compiled from or for something else; says which.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"no {path.name} in that folder")
    saved = json.loads(path.read_text())
    different = [key for key, value in (versions() | dict(about)).items() if saved.get(key) != value]
    if different:
        raise ValueError(
            "; ".join(f"{key} {saved.get(key)} there, {(versions() | dict(about))[key]} here" for key in different)
        )
    data = lzma.decompress((folder / f"{name}.bin").read_bytes())
    structures = jax.tree.structure((arguments, {})), jax.tree.structure(results)
    return serialize_executable.deserialize_and_load(data, *structures, execution_devices=jax.local_devices()[:1])

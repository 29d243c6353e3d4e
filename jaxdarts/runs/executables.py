"""Compiled programs on disk, whole: a later start of the same program neither traces nor compiles.

JAX keeps what XLA compiled under the text of a program, so every start has to trace it first. Here
an executable is kept under the program's fingerprint. An entry that is out of date is never found,
since the fingerprint holds every source file, version and setting.
"""

import contextlib
import hashlib
import os
import pickle
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from jaxdarts import files, parallel
from jaxdarts.runs import fingerprint

SWITCH = "JAXDARTS_EXECUTABLES"
"""Environment variable: 1 where executables are kept, as the commands set it; 0 turns that off."""

MOST_BYTES = 4 << 30
"""What all entries may take on disk; the ones that were used least recently go first."""

_SIGNATURE = b"jaxdarts executable 1\n"


def obtained(program: parallel.OnDevices, arguments: Sequence[Any]) -> Any:
    """The executable of a program for its arguments: read from disk, or compiled and kept there."""
    directory = folder()
    if directory is None:
        return program.compile(*arguments)
    devices = program.devices
    facts = [(one.id, one.device_kind, one.client.platform_version) for one in devices]
    try:
        key = fingerprint.of_program(
            program.function, tuple(arguments), facts, program.options, program.donate
        )
    except fingerprint.Unknown:  # code of a user, whose source is not known
        return program.compile(*arguments)
    path = directory / f"{key}.bin"
    try:
        return read(path, devices)
    except FileNotFoundError:
        pass
    except Exception as error:  # of JAX, which names none; a damaged entry is written again
        reason = " ".join(str(error).split())[:200]
        print(f"warning: {path} is compiled again: {reason}", file=sys.stderr, flush=True)
    with _afresh():
        executable = program.compile(*arguments)
    # Without room on disk, or on a platform that cannot write executables, the next start compiles.
    with contextlib.suppress(OSError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError):
        write(path, executable)
    return executable


def folder() -> Path | None:
    """Where executables are kept: beside JAX's own cache of compiled programs; None if nowhere."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    if os.environ.get(SWITCH) != "1" or not directory or jax.process_count() > 1:
        return None
    return Path(directory) / "executables"


@contextlib.contextmanager
def _afresh() -> Iterator[None]:
    """Compiles without JAX's own cache: what came from there cannot be written whole."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it looks at its settings once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def read(path: Path, devices: Any) -> Any:
    """An executable from a file.

    It is machine code, and to read it is to trust it: a file of another user is refused.

    Raises:
        FileNotFoundError: if there is none.
        files.Damaged: if it cannot be used; says why.
    """
    with files.open_regular(path) as file:
        if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
            raise files.Damaged(f"{path} belongs to another user")
        content = file.read()
    size = len(_SIGNATURE)
    digest, body = content[size : size + 32], content[size + 32 :]
    if content[:size] != _SIGNATURE or hashlib.sha256(body).digest() != digest:
        raise files.Damaged(f"{path} is damaged")
    os.utime(path)
    payload, *trees = pickle.loads(zlib.decompress(body))
    trees = [jax.tree.structure(tree) for tree in trees]
    return serialize_executable.deserialize_and_load(
        payload, *trees, backend=devices[0].client, execution_devices=devices
    )


def write(path: Path, executable: Any) -> None:
    """Writes an executable as a whole or not at all; makes room for it."""
    payload, *trees = serialize_executable.serialize(executable)
    # A structure with our own types cannot be pickled, but a tree of that structure can.
    trees = [jax.tree.unflatten(tree, range(tree.num_leaves)) for tree in trees]
    body = zlib.compress(pickle.dumps((payload, *trees)), level=1)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    make_room(path.parent, MOST_BYTES - len(body))
    files.replace_bytes(path, _SIGNATURE + hashlib.sha256(body).digest() + body)


def make_room(directory: Path, most: int) -> None:
    """Removes the entries that were used least recently until the others take at most `most`
    bytes.
    """
    entries = []
    for path in directory.glob("*.bin"):
        try:
            facts = path.stat()
        except FileNotFoundError:  # another process made room, too
            continue
        entries.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size

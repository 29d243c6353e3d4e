"""What a program depends on, as one hash: its source code, versions, settings, device, and every
value that its functions close over.

Two programs with the same fingerprint compile to the same executable, so neither has to be traced
to know that. Whatever this module does not understand, code of a user among it, has no fingerprint.
"""

import dataclasses
import enum
import functools
import hashlib
import os
import platform
import sys
import types
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdarts
from jaxdarts import parallel
from jaxdarts.runs import flags

VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "chex")
"""Packages that programs call, each known by its version."""

_KNOWN = {"jaxdarts", *VERSIONS, "ml_dtypes", *sys.stdlib_module_names}
_NO_PART = ("jax_compilation_cache_dir",)
"""Settings of JAX that change no program."""


class Unknown(TypeError):
    """A value has no fingerprint; the message says which."""


def of_program(function: Any, arguments: Any, *facts: Any) -> str:
    """The fingerprint of a function that is compiled for some arguments.

    Args:
        function: what is compiled.
        arguments: arrays or `jax.ShapeDtypeStruct`s; their shapes and types count.
        facts: anything else that it depends on, such as devices and compiler options.

    Raises:
        Unknown: if it depends on values or code that this module does not understand.
    """
    leaves, tree = jax.tree.flatten(arguments)
    forms = [(np.shape(leaf), str(jnp.result_type(leaf)), _is_weak(leaf)) for leaf in leaves]
    return of((surroundings(), str(tree), forms, facts, function))


def of(value: Any) -> str:
    """The fingerprint of a value: of plain data, arrays, functions with what they close over.

    Raises:
        Unknown: if a part of it is anything else.

    >>> of(functools.partial(max, 1)) == of(functools.partial(max, 2))
    False
    """
    walk = _Walk()
    walk.add(value)
    return walk.hash.hexdigest()


def surroundings() -> list[Any]:
    """What every program of this process depends on: source code, versions, settings, processor."""
    environment = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(("XLA_", "JAX_", "PJRT_", "NPROC", "LIBTPU_", "CUDA_", "NVIDIA_"))
    }
    settings = {k: repr(v) for k, v in jax.config.values.items() if k not in _NO_PART}
    versions = {name: metadata.version(name) for name in VERSIONS}
    return [_sources(), sys.version, versions, settings, environment, os.cpu_count(), _processor()]


@functools.cache
def _sources() -> str:
    """One hash of every file of this package."""
    root, total = Path(jaxdarts.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return total.hexdigest()


@functools.cache
def _processor() -> str:
    """The instructions that the processor has."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # a system without it
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _is_weak(leaf: Any) -> bool:
    return bool(getattr(leaf, "weak_type", isinstance(leaf, int | float | complex)))


class _Walk:
    """Goes through a value and all that it refers to, and hashes it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        # Kept alive: an object that is gone would leave its number to another one.
        self.seen: dict[int, tuple[int, Any]] = {}

    def word(self, *words: Any) -> None:
        for word in words:
            content = word if isinstance(word, bytes) else str(word).encode("utf-8", "replace")
            self.hash.update(f"{len(content)}:".encode() + content)

    def add(self, value: Any) -> None:
        kind = type(value)
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            if not isinstance(value, enum.Enum):
                return self.word(kind.__name__, repr(value))
        if id(value) in self.seen:
            return self.word("seen", self.seen[id(value)][0])
        self.seen[id(value)] = (len(self.seen), value)
        if isinstance(value, type):
            return self.word("type", self.known(value.__module__, value), value.__qualname__)
        self.word(kind.__module__, kind.__qualname__)
        if isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, types.CodeType):
            self.code(value)
        elif isinstance(value, types.ModuleType):
            self.word(self.known(value.__name__, value))
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            self.word(value.__name__)
            self.add(getattr(value, "__self__", None))
        elif isinstance(value, types.MethodType):
            self.all(value.__func__, value.__self__)
        elif isinstance(value, functools.partial):
            self.all(value.func, value.args, value.keywords)
        elif isinstance(value, enum.Enum):
            self.word(self.known(kind.__module__, value), value.name)
        elif isinstance(value, jax.Array) and parallel.is_key(value):
            self.all(str(jax.random.key_impl(value)), jax.random.key_data(value))
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            array = np.asarray(value)
            self.word(array.dtype, array.shape, np.ascontiguousarray(array).tobytes())
        elif kind is object:  # the default of an argument, where None is a value
            self.word("object")
        elif isinstance(value, np.dtype | range | slice | jax.ShapeDtypeStruct):
            self.word(repr(value))
        elif isinstance(value, Path | jax.tree_util.PyTreeDef):
            self.word(str(value))
        elif isinstance(value, Mapping):
            self.all(self.known(kind.__module__, value), *value.keys(), *value.values())
        elif isinstance(value, list | tuple):
            self.all(self.known(kind.__module__, value), len(value), *value)
        elif isinstance(value, set | frozenset):
            self.all(*sorted(of(one) for one in value))
        else:
            self.object(value)

    def all(self, *values: Any) -> None:
        for value in values:
            self.add(value)

    def function(self, value: types.FunctionType) -> None:
        self.known(value.__module__, value)
        self.all(value.__code__, value.__defaults__, value.__kwdefaults__)
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            try:
                content = cell.cell_contents
            except ValueError:  # a name that is not bound yet
                self.word("empty")
                continue
            try:
                self.add(content)
            except Unknown as error:
                raise Unknown(f"{name} of {value.__qualname__}: {error}") from None

    def code(self, value: types.CodeType) -> None:
        # The text is known with all sources; this tells functions of one module from each other.
        self.word(value.co_qualname, value.co_firstlineno, value.co_code, value.co_names)
        self.all(*value.co_consts)

    def object(self, value: Any) -> None:
        """A dataclass, such as a network of Flax, or a function in a wrapper, such as `jax.jit`."""
        kind = type(value)
        self.known(kind.__module__, value)
        if dataclasses.is_dataclass(value):
            skipped = flags.not_compiled(kind)
            for field in dataclasses.fields(value):
                if field.name not in skipped:
                    self.all(field.name, getattr(value, field.name))
        elif callable(value) and hasattr(value, "__wrapped__"):
            self.add(value.__wrapped__)
        else:
            raise Unknown(f"{value!r} of type {kind.__module__}.{kind.__qualname__}")

    def known(self, module: str | None, value: Any) -> str:
        """The name of a module whose source code counts."""
        if (module or "").split(".")[0] not in _KNOWN:
            raise Unknown(f"{value!r} of module {module}")
        return module or ""

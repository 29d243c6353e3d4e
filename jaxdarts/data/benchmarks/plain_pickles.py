"""Pickles of plain data: dicts, lists, numbers, texts and NumPy arrays, and nothing else.

A pickle is a program that may name and call any function. Here the names of NumPy's arrays are the
only ones that it may say, and a file that says another is refused before anything of it is called.
"""

import codecs
import collections
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdarts import files

LIMIT = 1 << 31
"""Most bytes of a pickle that is read."""
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that files of old versions of PyTorch begin with."""


def _array(kind: type, shape: tuple, code: Any) -> np.ndarray:
    """An empty array, whose content follows in the pickle."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("an array that NumPy would not write")
    return np.ndarray((0,), np.int8)


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a number that NumPy would not write")
    return np.frombuffer(data, dtype, 1)[0]


def _bytes(text: str, encoding: str) -> bytes:
    """How old pickles write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return codecs.encode(text, "latin1")


def _no_bytes() -> bytes:
    """How old pickles write no bytes."""
    return b""


def _buffer(data: Any, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    """How new pickles write an array."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise pickle.UnpicklingError("an array that NumPy would not write")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


_NAMES: Mapping[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _bytes,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _buffer),
        )
    },
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only plain data is read")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it has tensors, and only plain data is read")


def read(path: str | os.PathLike) -> Any:
    """The value of a pickle, or of a file of `torch.save`, that holds plain data.

    Raises:
        OSError: if the file cannot be read.
        Damaged: if it is none, or names anything else; the message is one line.
    """
    with files.open_regular(path) as file:
        try:
            if file.read(2) == b"PK":
                with zipfile.ZipFile(file) as archive, _member(archive) as member:
                    return _Plain(member).load()
            file.seek(0)
            value = _Plain(file).load()
            if value == _TORCH_MAGIC:  # then come its version, the machine's sizes and the value
                for _ in range(3):
                    value = _Plain(file).load()
            return value
        # What is no pickle raises anything: the opcodes are random then.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise files.Damaged(f"{path} is no pickle of plain data: {reason}") from error


def _member(archive: zipfile.ZipFile) -> Any:
    """The pickle in a file of `torch.save`."""
    names = [name for name in archive.namelist() if Path(name).name == "data.pkl"]
    if len(names) != 1:
        raise pickle.UnpicklingError("an archive without data.pkl")
    if archive.getinfo(names[0]).file_size > LIMIT:
        raise pickle.UnpicklingError(f"more than {LIMIT:,} bytes are not read")
    return archive.open(names[0])

"""Files that are written as a whole or not at all, and read back with one kind of error."""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file as a whole or not at all: a temporary file beside it, then a rename."""
    with _replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file of bytes as a whole or not at all."""
    with _replaced(path) as temporary:
        temporary.write_bytes(data)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, or no such file.
    """
    try:
        with (
            Path(path).open("rb") as file,
            np.load(file, allow_pickle=False) as saved,
        ):  # np.load leaves a bad one open
            return {name: saved[name] for name in saved.files}
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged, or holds no arrays by name: {error}") from error


def replace_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name as an npz file, as a whole or not at all."""
    converted: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    with (
        _replaced(path) as temporary,
        temporary.open("wb") as file,
    ):  # np.savez would add a suffix to a name
        np.savez(file, **converted)


@contextlib.contextmanager
def _replaced(path: str | os.PathLike) -> Iterator[Path]:
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads what `runs.writers.json_lines` wrote; a last line that was cut off is left out.

    Raises:
        ValueError: if any other line is not a record.
    """
    path = Path(path)
    return [
        record
        for _, record in parse_json_lines(path, path.read_text(encoding="utf-8", errors="replace"))
    ]


def parse_json_lines(path: Path, text: str) -> list[tuple[str, dict[str, Any]]]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    pairs = []
    for number, line in lines:
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "step" not in record:
                raise ValueError('expected an object with a "step"')
        except ValueError as error:
            if number == lines[-1][0]:
                break
            raise ValueError(f"{path}, line {number}: {error}") from None
        pairs.append((line, record))
    return pairs

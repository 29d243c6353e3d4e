"""Files that are written aside and renamed, and read back with bounds and one kind of error.

Whatever is wrong with the content of a file that is read here, a `Damaged` says so in one line that
names the file. A file that is missing or cannot be opened is an OSError.
"""

import contextlib
import csv
import gzip
import io
import json
import math
import os
import reprlib
import shutil
import stat
import tempfile
import textwrap
import types
import typing
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

MAX_TEXT = 1 << 26
"""Most bytes of a text that is read into memory at once, unless a reader allows more."""
MAX_LINE = 1 << 20
"""Most characters of a line."""
_MAX_HEADER = 10_000
_LARGEST_INT = 2**63
_RATIO = 1100  # deflate packs no more than 1,032 bytes into one


def listed(names: Iterable[str]) -> str:
    """Names out of a file for a message: as many as 200 characters hold, in one line."""
    return textwrap.shorten(", ".join(map(str, names)), 200, placeholder=" ...")


class Damaged(ValueError):
    """A file does not hold what it should; the message is one line that names the file."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


# ------------------------------------------------------------------------------------------ writing


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file as a whole or not at all: a temporary file beside it, then a rename.

    Bytes of file names that are not UTF-8 are escaped by backslashes.
    """
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def replace_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes bytes as a whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_bytes(content)


def replace_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name as an npz file, as a whole or not at all."""
    converted: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    # np.savez would add a suffix to a name.
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **converted)


@contextlib.contextmanager
def replaced(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it on leaving.

    It is removed after an error. A link stays, and the file that it names is replaced. A device or
    a pipe stays, and is written into.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / "content"
            yield temporary
            with temporary.open("rb") as content, open(path, "wb") as target:
                shutil.copyfileobj(content, target)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------- bytes, texts


def open_regular(path: str | os.PathLike) -> IO[bytes]:
    """Opens a file for reading, if it is a regular one: a device or a pipe may have no end.

    Raises:
        OSError: if the file cannot be opened.
        Damaged: if it is no regular file.
    """
    check_regular(path)
    return open(path, "rb")


def check_regular(path: str | os.PathLike) -> None:
    """Refuses a device, a pipe and a folder, without opening it; errors as of `open_regular`."""
    # Opening a pipe waits for its writer.
    if stat.S_ISDIR(mode := os.stat(path).st_mode):
        raise IsADirectoryError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise Damaged(f"{path} is no regular file but a device or a pipe; copy it to a file first")


def read_bytes(path: str | os.PathLike, limit: int = MAX_TEXT) -> bytes:
    """The content of a regular file of at most `limit` bytes; errors as of `open_regular`."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Damaged(f"{path} is too large: more than {limit:,} bytes are not read")
    return content


def read_text(path: str | os.PathLike, limit: int = MAX_TEXT) -> str:
    """A text in UTF-8, with a byte order mark or without; errors as of `read_bytes`."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is no text in UTF-8: {error}") from error


@contextlib.contextmanager
def open_lines(path: str | os.PathLike, limit: int = 1 << 30) -> Iterator[Iterator[str]]:
    """The lines of a text in UTF-8, compressed by gzip or not, with their ends; for csv.reader.

    Lines are at most `MAX_LINE` characters long, and all together at most `limit`. Errors as of
    `read_text`, also while the lines are read; those of the csv module are a `Damaged` too.
    """
    with open_regular(path) as raw, contextlib.ExitStack() as stack:
        # Not by the file's name: a renamed file would be read as garbage.
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        source = stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw
        file = stack.enter_context(io.TextIOWrapper(source, encoding="utf-8-sig", newline=""))

        def lines() -> Iterator[str]:
            number, total = 0, 0
            while line := file.readline(MAX_LINE + 1):
                number, total = number + 1, total + len(line)
                if len(line) > MAX_LINE:
                    raise Damaged(f"{path}, line {number}: longer than {MAX_LINE:,} characters")
                if total > limit:
                    raise Damaged(f"{path} is too large: more than {limit:,} characters")
                yield line

        try:
            yield lines()
        except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise Damaged(f"{path} is damaged, or no table in UTF-8: {error}") from error
        except csv.Error as error:
            raise Damaged(f"{path} is damaged, or no table: {error}") from error


# --------------------------------------------------------------------------------------------- JSON


def read_json(path: str | os.PathLike, form: Any = Any, remedy: str = "") -> Any:
    """A value from a JSON file.

    Args:
        path: the file.
        form: type that the value must have: of Python, of `typing`, or a TypedDict (`fitting`).
        remedy: what the reader can do about a damaged file; the message ends with it.

    Raises:
        OSError: if the file cannot be read.
        Damaged: if it is not JSON of that form; names the field.
    """
    with _remedied(remedy):
        return fitting(parse_json(read_text(path), str(path)), form, str(path))


def parse_json(text: str, where: str) -> Any:
    """A value from JSON; Damaged names `where` it is from."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise Damaged(f"{where} is not JSON: {reason}") from None


def fitting(value: Any, form: Any, where: str) -> Any:
    """The value, if it has the type `form`; lists become tuples where the type is one.

    A float may be written as an int; true and false are no numbers; an int has at most 64 bits. Of
    a TypedDict, fields that it does not name are left alone.

    Raises:
        Damaged: if not; names `where` and the field.

    >>> fitting({"a": [1, 2]}, dict[str, tuple[float, ...]], "x.json")
    {'a': (1, 2)}
    >>> fitting({"a": [1, None]}, dict[str, tuple[float, ...]], "x.json")
    Traceback (most recent call last):
    jaxdarts.files.Damaged: x.json: a[1] is None, not a number
    """
    return _fitting(value, form, where, "")


def _fitting(value: Any, form: Any, where: str, field: str) -> Any:
    origin, arguments = typing.get_origin(form), typing.get_args(form)
    if origin is typing.Annotated:
        return _fitting(value, arguments[0], where, field)
    if form is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            with contextlib.suppress(Damaged):
                return _fitting(value, option, where, field)
        objects = [option for option in arguments if typing.is_typeddict(option)]
        if isinstance(value, dict) and objects:  # the error is about the fields of the nearest one
            shared = [len(value.keys() & option.__annotations__.keys()) for option in objects]
            return _fields(value, objects[shared.index(max(shared))], where, field)
    elif origin is typing.Literal:
        if any(type(value) is type(option) and value == option for option in arguments):
            return value
    elif form is float:
        if type(value) is float or type(value) is int and abs(value) < _LARGEST_INT:
            return value
    elif form is int:
        if type(value) is int and abs(value) < _LARGEST_INT:
            return value
    elif form in (str, bool, type(None), None):
        if isinstance(value, form or type(None)):
            return value
    elif typing.is_typeddict(form):
        if isinstance(value, dict):
            return _fields(value, form, where, field)
    elif origin in (list, tuple, Sequence) or form in (list, tuple):
        if isinstance(value, list | tuple):
            return _items(value, origin or form, arguments, where, field)
    elif origin in (dict, Mapping) or form is dict:
        if isinstance(value, dict):
            kind = arguments[1] if arguments else Any
            return {
                name: _fitting(v, kind, where, _named(field, name)) for name, v in value.items()
            }
    else:
        raise TypeError(f"{form} is no form of JSON")
    named = f"{field} is" if field else "the content is"
    raise Damaged(f"{where}: {named} {reprlib.repr(value)}, not {_words(form)}")


def _fields(value: dict[str, Any], form: Any, where: str, field: str) -> dict[str, Any]:
    hints, checked = typing.get_type_hints(form), dict(value)
    for name, kind in hints.items():
        if name in value:
            checked[name] = _fitting(value[name], kind, where, _named(field, name))
        elif name in form.__required_keys__:
            raise Damaged(f"{where}: {_named(field, name)} is missing")
    return checked


def _items(value: Any, kind: Any, arguments: tuple, where: str, field: str) -> Any:
    each = list(arguments) or [Any, ...]
    if kind is not tuple or each[-1] is ...:
        each = each[:1] * len(value)
    if len(each) != len(value):
        named = field or "the content"
        raise Damaged(f"{where}: {named} has {len(value)} entries, not {len(each)}")
    items = [_fitting(v, e, where, f"{field}[{i}]") for i, (v, e) in enumerate(zip(value, each))]
    return tuple(items) if kind is tuple else items


def _named(field: str, name: str) -> str:
    name = name if len(name) <= 40 else name[:40] + "..."
    return f"{field}.{name}" if field else name


def _words(form: Any) -> str:
    origin, arguments = typing.get_origin(form), typing.get_args(form)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, arguments)))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    words: dict[Any, str] = {float: "a number", int: "an integer", str: "a text", bool: "a boolean"}
    words |= {type(None): "null", list: "a list", tuple: "a list", Sequence: "a list"}
    return words.get(form) or words.get(origin) or "an object"


@contextlib.contextmanager
def _remedied(remedy: str) -> Iterator[None]:
    try:
        yield
    except Damaged as error:
        raise Damaged(f"{error}; {remedy}") if remedy else error from None


# --------------------------------------------------------------------------------------- JSON lines


def read_json_lines(
    path: str | os.PathLike, form: Any = dict[str, Any], remedy: str = ""
) -> list[dict[str, Any]]:
    """Reads what `runs.writers.json_lines` wrote; a last line that was cut off is left out.

    Args:
        path, remedy: as of `read_json`.
        form: type of a record, which has an integer "step" in any case.

    Raises:
        OSError: if the file cannot be read.
        Damaged: if any other line is not such a record; names the line.
    """
    with _remedied(remedy):
        return [record for _, record in lines_and_records(path, form)]


def lines_and_records(
    path: str | os.PathLike, form: Any = dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """The lines of such a file with their records."""
    text = read_bytes(path, 1 << 30).decode("utf-8", errors="replace")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    pairs = []
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            record = parse_json(line, where)
        except Damaged:
            if number == lines[-1][0]:  # what a killed process was writing
                break
            raise
        record = fitting(record, form, where)
        fitting(record, _Step, where)
        pairs.append((line, record))
    return pairs


class _Step(typing.TypedDict):
    step: int


# ------------------------------------------------------------------------------------------- arrays


def read_arrays(
    path: str | os.PathLike, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name: of numbers or texts, none of which is a pickle.

    Sizes are compared with the file's and with this machine's memory before memory is asked for.

    Args:
        path: the file.
        names: the arrays to read, all of which must be there; None for all.

    Raises:
        OSError: if the file cannot be read.
        Damaged: if it is damaged, no such file, encrypted, too large, or lacks an array.
    """
    with _archive(path) as (archive, members, size):
        wanted = list(members if names is None else names)
        for name in wanted:
            if name not in members:
                raise Damaged(f"{path} has no array {name}, only {listed(members)}")
        check_members(path, [members[name] for name in wanted], size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that an older Python wrote
            return {name: _array(path, archive, members[name]) for name in wanted}


def array_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The names of the arrays of an npz file; errors as of `read_arrays`."""
    with _archive(path) as (_, members, _):
        return tuple(members)


@contextlib.contextmanager
def _archive(
    path: str | os.PathLike,
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo], int]]:
    """An npz file, its members by the arrays' names, and its size in bytes."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = {
                member.filename.removesuffix(".npy"): member for member in archive.infolist()
            }
            yield archive, members, os.fstat(file.fileno()).st_size
    except (Damaged, MemoryError):
        raise
    # zipfile and NumPy raise anything on broken data, OSErrors without a number among them.
    except Exception as error:
        if isinstance(error, OSError) and type(error) is not OSError:
            raise
        raise Damaged(f"{path} is damaged, or holds no arrays by name: {error}") from error


def check_members(
    path: str | os.PathLike,
    members: Sequence[zipfile.ZipInfo],
    size: int,
    limit: int | None = None,
) -> None:
    """Refuses members of a zip archive that this machine should not unpack, before it does.

    Raises:
        Damaged: if one is encrypted, or packed by other than deflate, or larger than an archive of
            `size` bytes can hold; or if all together are larger than `limit`, by default the memory
            of this machine.
    """
    for member in members:
        name = f"{path}: {reprlib.repr(member.filename)}"
        if member.flag_bits & 1:
            raise Damaged(f"{name} is encrypted; write the archive without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Damaged(f"{name} is compressed by another method than deflate")
        ratio = 1 if member.compress_type == zipfile.ZIP_STORED else _RATIO
        if member.compress_size > size or member.file_size > ratio * member.compress_size:
            raise Damaged(
                f"{name} declares {member.file_size:,} bytes, more than {size:,} bytes of archive"
                " can hold"
            )
    total, most = sum(member.file_size for member in members), limit or _memory()
    if total > most:
        raise Damaged(f"{path} unpacks to {total:,} bytes; at most {most:,} are read")


def _array(path: Any, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array; its header is read, and compared with the member's size, before the rest."""
    name = f"{path}: {reprlib.repr(member.filename)}"
    with archive.open(member) as file:
        head = io.BytesIO(file.read(_MAX_HEADER))
    version = np.lib.format.read_magic(head)
    if version not in ((1, 0), (2, 0)):
        raise Damaged(f"{name} has an array format of version {version}; 1 and 2 are known")
    read_header: Any = {
        1: np.lib.format.read_array_header_1_0,
        2: np.lib.format.read_array_header_2_0,
    }[version[0]]
    shape, _, dtype = read_header(head)
    if dtype.hasobject:
        raise Damaged(f"{name} holds Python objects, which are not read (allow_pickle=False)")
    if dtype.kind not in "biufcUS":
        raise Damaged(f"{name} is of type {dtype}; arrays of numbers or texts are read")
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared != member.file_size - head.tell():
        raise Damaged(
            f"{name} declares {reprlib.repr(shape)} {dtype}, {declared:,} bytes, and has"
            f" {member.file_size - head.tell():,}"
        )
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the end, where the checksum is compared
    return array


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        return 1 << 40

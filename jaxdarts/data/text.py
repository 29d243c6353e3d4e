"""Texts for language models: words as numbers, streams of a batch, and windows over them."""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from jaxdarts import files

LARGEST = 1 << 30
"""Most bytes of a part of a text that are read."""
END, RARE = "<eos>", "<unk>"
PARTS = ("train", "valid", "test")

# Names of the three files as their distributors have them; {} is the part.
_FILES = {"ptb": ("ptb.{}.txt", "{}.txt"), "wikitext2": ("wiki.{}.tokens", "{}.txt")}
_SIZES = {
    "ptb": {"vocabulary": 10_000, "train": 929_589, "valid": 73_760, "test": 82_430},
    "wikitext2": {"vocabulary": 33_278, "train": 2_088_628, "valid": 217_646, "test": 245_569},
}


class Text(NamedTuple):
    """A text in three parts, as places in its vocabulary; every line ends with `<eos>`."""

    name: str
    train: Int32[np.ndarray, " train"]
    valid: Int32[np.ndarray, " valid"]
    test: Int32[np.ndarray, " test"]
    vocabulary: tuple[str, ...]


def load(name: str, data_dir: str | None = None) -> Text:
    """Loads a text into memory.

    Words are what lies between blanks, and every line, an empty one too, ends with the word
    `<eos>`. The vocabulary is built over all three parts, in the order of appearance (quark0/darts,
    rnn/data.py).

    Args:
        name: one of

            - `ptb`: Penn Treebank in Mikolov's form, `ptb.train.txt`, `ptb.valid.txt`,
              `ptb.test.txt` (or `train.txt`, ...);
            - `wikitext2`: `wiki.train.tokens`, ... (or `train.txt`, ...);
            - `text:FOLDER`: `train.txt`, `valid.txt` and `test.txt` in that folder, in UTF-8;
            - `pydoc`: the English text of Python's own help topics, about 90,000 words; it differs
              between versions of Python.
        data_dir: for the first two, the folder that holds the files, or a folder of the set's name
            with them; zip archives in it are looked into. They have to be brought there by hand.

    Raises:
        ValueError: if a file is empty or not UTF-8, the name is unknown, or a set has other numbers
          of words than published.
        FileNotFoundError: if a file is missing.
    """
    kind, _, path = name.partition(":")
    if name == "pydoc":
        lines = _pydoc()
    elif kind == "text" and path:
        folder = Path(path).expanduser()
        lines = [_lines(*_read([folder], [f"{part}.txt"])) for part in PARTS]
    elif name in _FILES:
        base = Path(data_dir).expanduser() if data_dir else Path()
        folders = [base / name, base] if data_dir else [base / name]
        lines = [
            _lines(*_read(folders, [file.format(part) for file in _FILES[name]])) for part in PARTS
        ]
    else:
        raise ValueError(
            f"there is no text {name!r}; known are pydoc, ptb, wikitext2 and text:FOLDER"
        )
    ids: dict[str, int] = {}
    train, valid, test = (
        np.array([ids.setdefault(word, len(ids)) for word in words(part)], np.int32)
        for part in lines
    )
    text = Text(name, train, valid, test, tuple(ids))
    for field, expected in _SIZES.get(name, {}).items():
        count = len(getattr(text, field))
        if count != expected:
            what = (
                "words in its vocabulary" if field == "vocabulary" else f"words in its {field} part"
            )
            raise ValueError(
                f"{name} has {count:,} {what}; published are {expected:,}, with <eos>: is it"
                " another version?"
            )
    return text


def words(lines: Iterable[str]) -> Iterable[str]:
    """The words of every line, each line ended by `<eos>`.

    >>> list(words(["a  b", ""]))
    ['a', 'b', '<eos>', '<eos>']
    """
    for line in lines:
        yield from line.split()
        yield END


def streams(tokens: Int[np.ndarray, " words"], batch_size: int) -> Int32[np.ndarray, "rows batch"]:
    """Cuts a text into `batch_size` texts of the same length, side by side.

    What is left over at its end is dropped.

    Raises:
        ValueError: if the text is too short for three rows: two words in and two to predict.

    >>> streams(np.arange(11), 3)
    array([[0, 3, 6],
           [1, 4, 7],
           [2, 5, 8]], dtype=int32)
    """
    rows = len(tokens) // batch_size
    if rows < 3:
        raise ValueError(
            f"{len(tokens)} words are too short a text for a batch of {batch_size}: it needs"
            f" {3 * batch_size}"
        )
    return tokens[: rows * batch_size].reshape(batch_size, rows).T.astype(np.int32)


class Windows(NamedTuple):
    """Windows of one epoch over a stream.

    Rows start to start + length are read, and each predicts the row after it.
    """

    start: Int32[np.ndarray, " windows"]
    length: Int32[np.ndarray, " windows"]


def windows(rows: int, length: int) -> Windows:
    """Windows of one length over all of a stream, the last one shorter: how a text is evaluated.

    >>> windows(8, 3)
    Windows(start=array([0, 3, 6], dtype=int32), length=array([3, 3, 1], dtype=int32))
    """
    start = np.arange(0, rows - 1, length, dtype=np.int32)
    return Windows(start, np.minimum(length, rows - 1 - start).astype(np.int32))


def random_windows(
    seed: int,
    epoch: int,
    rows: int,
    length: int = 35,
    deviation: float = 0.0,
    shortest: int = 5,
    longest: int | None = None,
) -> Windows:
    """Windows of one epoch with random lengths; a pure function of its arguments.

    A word does not meet the same edge in every epoch.

    A window is `length` rows long, or half of that (rounded down) with a probability of 0.05. With
    a deviation it is drawn from the normal distribution around that, rounded towards zero and cut
    to `shortest` and `longest`. The last one ends with the stream; a single row that is left to
    read is not read, as in the official code.

    Merity, Keskar & Socher, `Regularizing and Optimizing LSTM Language Models
    <https://arxiv.org/abs/1708.02182>`_, 2018, section 5; quark0/darts searches without a deviation
    and evaluates with 5, and `longest` 20 above `length`.
    """
    rng = np.random.default_rng((seed, epoch))
    least = max(1, shortest if deviation else length // 2)
    count = -(-rows // least)  # enough, however short they come out
    lengths = np.where(rng.random(count) < 0.95, length, length / 2)
    if deviation:
        lengths = np.maximum(rng.normal(lengths, deviation).astype(int), least)
    lengths = np.clip(lengths.astype(int), 1, longest)
    ends = np.cumsum(lengths)
    starts = np.append(0, ends[:-1])
    used = starts < rows - 2
    starts, lengths = starts[used], np.minimum(lengths, rows - 1 - starts)[used]
    return Windows(starts.astype(np.int32), lengths.astype(np.int32))


def window(
    stream: Int[Array | np.ndarray, "rows batch"],
    start: Array | np.integer | int,
    length: Array | np.integer | int,
    time: int,
) -> dict[str, Array]:
    """A batch of a stream's words and the words after them, padded to `time` rows.

    One program serves all lengths.

    Returns:
        {"tokens": [time, batch], "targets": [time, batch], "length"}; the first `length` rows
        count.
    """
    rows = jnp.asarray(stream)[jnp.minimum(start + jnp.arange(time + 1), stream.shape[0] - 1)]
    return {"tokens": rows[:-1], "targets": rows[1:], "length": jnp.asarray(length)}


def _read(folders: list[Path], names: list[str]) -> tuple[Path, bytes]:
    """The first file of one of these names, in one of these folders or in a zip archive there."""
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name, files.read_bytes(folder / name, LARGEST)
        for archive in sorted(folder.glob("*.zip")) if folder.is_dir() else ():
            try:
                with files.open_regular(archive) as file, zipfile.ZipFile(file) as opened:
                    for member in opened.infolist():
                        if Path(member.filename).name in names:
                            files.check_members(archive, [member], archive.stat().st_size, LARGEST)
                            return archive / member.filename, opened.read(member)
            except (files.Damaged, FileNotFoundError, PermissionError):
                raise
            except Exception as error:  # zipfile raises anything on broken data
                raise ValueError(
                    f"{archive} is no zip archive, or a damaged one: {error}"
                ) from error
    searched = " and ".join(str(folder) for folder in folders)
    raise FileNotFoundError(
        f"there is no {' or '.join(names)} in {searched}: put it there (--data_dir names another"
        " folder)"
    )


def _lines(path: Path, content: bytes) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise files.Damaged(f"{path} is not UTF-8: {error}") from error
    if not text.strip():
        raise files.Damaged(f"{path} is empty")
    # Not splitlines, which also breaks at form feeds and the like.
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _pydoc() -> list[list[str]]:
    """Paragraphs of Python's help topics in lower case, for training, validation and test.

    Every tenth is kept for validation, every tenth for the test.
    """
    from pydoc_data import topics  # large, and only of use here

    paragraphs = [
        p
        for _, topic in sorted(topics.topics.items())
        for p in re.split(r"\n\s*\n", topic)
        if p.strip()
    ]
    split = [
        [re.sub(r"\d+", "N", word) for word in re.findall(r"\w+|[^\w\s]", p.lower())]
        for p in paragraphs
    ]
    split = [[word for word in tokens if re.match(r"\w|[.,:;()=']", word)] for tokens in split]
    counts = Counter(word for tokens in split for word in tokens)
    lines = [
        " ".join(word if counts[word] >= 3 else RARE for word in tokens)
        for tokens in split
        if tokens
    ]
    others = [line for i, line in enumerate(lines) if i % 10 not in (4, 9)]
    return [others, lines[4::10], lines[9::10]]

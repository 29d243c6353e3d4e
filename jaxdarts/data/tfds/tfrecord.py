"""TFRecord files, read without TensorFlow.

They are records of bytes, each with checksums, one after the other.

A record is its length (8 bytes, little endian), the checksum of those, the data, and the checksum
of the data. A checksum is CRC-32C, rotated and shifted ("masked") so that checksums of data with
checksums in it stay sound.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxdarts import files

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_TABLE = np.arange(256, dtype=np.uint32)
for _ in range(8):
    _TABLE = np.where(_TABLE & 1, _TABLE >> 1 ^ np.uint32(_POLYNOMIAL), _TABLE >> 1)
_ENTRIES = _TABLE.tolist()
_BATCH, _LONGEST = 4096, 1 << 24
_TOGETHER = 1 << 26  # bytes that are looked at together; the longest record is a quarter of them


def read(path: str | os.PathLike) -> Iterator[bytes]:
    """The data of every record of a file, in order, its checksums verified.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, or no such file; the message names the byte where the bad
          record starts.
    """
    path = Path(path)
    with path.open("rb") as file:
        # Together: a checksum is a step for every byte, and a step costs about the same for one
        # record and for thousands.
        for batch in _batches(_split(path, file)):
            checksums = masked_checksums([data for _, data, _ in batch])
            for (offset, data, expected), checksum in zip(batch, checksums.tolist(), strict=True):
                if checksum != expected:
                    raise files.Damaged(
                        f"{path} is damaged: the record at byte {offset} does not have its checksum"
                    )
                yield data


def _split(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """Every record of a file: (offset in the file, data, its checksum).

    Lengths are verified, since all depends on them.
    """
    offset = 0
    while head := file.read(12):
        if len(head) < 12:
            raise files.Damaged(
                f"{path} is cut off, or no TFRecord file: the record at byte {offset} has no length"
            )
        length, checksum = struct.unpack("<QI", head)
        if _masked_checksum(head[:8]) != checksum or length > _LONGEST:
            raise files.Damaged(
                f"{path} is damaged, or no TFRecord file: the length of the record at byte {offset}"
                " is wrong"
            )
        body = file.read(length + 4)
        if len(body) < length + 4:
            raise files.Damaged(f"{path} is cut off: the record at byte {offset} is not whole")
        yield offset, body[:length], struct.unpack("<I", body[length:])[0]
        offset += 16 + length


def _batches(records: Iterable[tuple[int, bytes, int]]) -> Iterator[list[tuple[int, bytes, int]]]:
    """Records in groups of bounded number and size."""
    batch, size = [], 0
    for record in records:
        batch.append(record)
        size += len(record[1])
        if len(batch) == _BATCH or size > _TOGETHER:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def masked_checksums(records: Sequence[bytes]) -> np.ndarray:
    """The masked CRC-32C of every record.

    >>> bool(masked_checksums([b"123456789"])[0] == _mask(0xE3069283))  # the check value of CRC-32C
    True
    """
    # Those that are not at their end come first. Short ones are not padded to the longest.
    order = sorted(range(len(records)), key=lambda i: -len(records[i]))
    checksums, start = np.zeros(len(records), np.uint32), 0
    while start < len(order):
        number = max(1, _TOGETHER // max(1, len(records[order[start]])))
        group = order[start : start + number]
        checksums[group] = _checksums_of_sorted([records[i] for i in group])
        start += number
    return checksums


def _checksums_of_sorted(records: Sequence[bytes]) -> np.ndarray:
    """The same of records that are sorted by length, the longest first."""
    lengths = np.array([len(record) for record in records])
    longest = int(lengths[0])
    padded = b"".join(record.ljust(longest, b"\0") for record in records)
    columns = np.ascontiguousarray(np.frombuffer(padded, np.uint8).reshape(len(records), longest).T)
    state = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for i, column in enumerate(columns):
        live = int(np.searchsorted(-lengths, -i))  # how many are longer than i
        state[:live] = _TABLE[(state[:live] ^ column[:live]) & 0xFF] ^ (state[:live] >> 8)
    return np.asarray(_mask(~state))


def _masked_checksum(data: bytes) -> int:
    """Masked checksum of a few bytes."""
    state = 0xFFFFFFFF
    for byte in data:
        state = _ENTRIES[(state ^ byte) & 0xFF] ^ state >> 8
    return int(_mask(np.uint32(state ^ 0xFFFFFFFF)))


def _mask(checksum):
    return (
        (np.uint32(checksum) >> 15 | np.uint32(checksum) << 17).astype(np.uint64) + 0xA282EAD8
    ).astype(np.uint32)

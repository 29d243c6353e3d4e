"""Pictures in files: which a folder holds, which of them can be read, and their pixels."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from jaxdarts import files
from jaxdarts.data.optional import require
from jaxdarts.data.order import four_fifths, mixed_order

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"}  # eight bits a channel or fewer

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
"""What the folders of a set's parts are called, in any case."""
_ORIENTATION = 0x0112  # EXIF: how a camera was held; 5 to 8 change height and width


def folder_files(
    root: Path,
) -> tuple[list[tuple[str, int]], list[tuple[str, int]], tuple[str, ...]]:
    """The training and the test files of `folder:PATH`, and the names of the classes.

    Files have their labels and are in a fixed order.

    Warns of files that are no images, and how many they are.

    Raises:
        ValueError: if a class has test images only, or a folder no images.
        FileNotFoundError: if there is no such folder, or a part of it is missing or empty.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"folder:{root}: no such folder")
    parts: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        part = _PARTS.get(path.name.lower())
        if part is None or not path.is_dir():
            continue
        if part in parts:
            raise ValueError(f"{path} and {parts[part]} have the same meaning: remove one of them")
        parts[part] = path
    parts = {part: parts[part] for part in ("train", "test", "val") if part in parts}
    if not parts:
        class_names = _subfolders(root)
        files = _files(root, class_names)
        parts_of_all = four_fifths(np.array([label for _, label in files], np.int64))
        train, test = ([files[i] for i in part] for part in parts_of_all)
    elif "train" not in parts or len(parts) == 1:
        raise FileNotFoundError(
            f"folder:{root} has only {', '.join(path.name for path in parts.values())}; needed are"
            " train, and test, val or validation"
        )
    else:
        to_train_on = parts.pop("train")
        class_names = _subfolders(to_train_on)
        held_out, *rest = parts.values()
        for path in rest:
            warn_of_validation(f"folder:{root}", str(path))
        if unknown := sorted(set(_subfolders(held_out)) - set(class_names)):
            raise ValueError(f"{held_out / unknown[0]} is a class that {to_train_on} lacks")
        # Sorted by class, the first half of the training set would lack the last classes.
        files, others = _files(to_train_on, class_names), _files(held_out, class_names, False)
        train, test = ([part[i] for i in _order(part)] for part in (files, others))
    if not train or not test:
        raise FileNotFoundError(
            f"folder:{root}: {len(train)} training and {len(test)} test images; needed are files "
            f"{', '.join(sorted(SUFFIXES))} in one folder per class"
        )
    return train, test, class_names


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )


def _files(
    folder: Path, class_names: Sequence[str], every_class: bool = True
) -> list[tuple[str, int]]:
    """The pictures of every class; text, since a million Path objects would take a gigabyte."""
    pictures: list[tuple[str, int]] = []
    skipped: list[str] = []
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            continue
        before, entries = len(pictures), sorted(os.listdir(folder / name))
        for file in entries:
            path = os.path.join(folder, name, file)
            if file.startswith("."):
                continue
            if os.path.splitext(file)[1].lower() in SUFFIXES:
                pictures.append((path, label))
            else:
                skipped.append(path)
        if len(pictures) == before and every_class:
            raise ValueError(
                f"{folder / name} has no images and {len(entries)} other files, but each folder is"
                f" a class: remove it, or put files {', '.join(sorted(SUFFIXES))} there"
            )
    if skipped:
        inner = " (a folder inside a class is not read)" if os.path.isdir(skipped[0]) else ""
        number = f"{len(skipped)} entries that are" if len(skipped) > 1 else "an entry that is"
        warnings.warn(
            f"{folder}: skipped {number} no file {', '.join(sorted(SUFFIXES))}, such as"
            f" {skipped[0]}{inner}",
            UserWarning,
            stacklevel=2,
        )
    return pictures


def _order(pictures: Sequence[tuple[str, int]]) -> np.ndarray:
    return mixed_order(np.array([label for _, label in pictures], np.int64))


def warn_of_validation(name: str, what: str) -> None:
    """Warns of a validation part beside a test part."""
    warnings.warn(
        f"{name}: {what} is not used: tests are on the test images, and validation takes a part of"
        " the training images",
        UserWarning,
        stacklevel=2,
    )


def check_readable(
    root: Path, class_names: Sequence[str], train: np.ndarray, test: np.ndarray
) -> None:
    """Refuses a folder where nothing of a class, or of the test part, is readable.

    train, test: labels of the readable pictures.
    """
    for label, name in enumerate(class_names):
        if not (train == label).any():
            raise files.Damaged(f"folder:{root}: no training image of {name} is readable")
    if not len(test):
        raise files.Damaged(f"folder:{root}: no test image is readable")


def warn_of_broken(errors: Sequence[str], number: int) -> None:
    """Warns of broken files among a number of them, the first five by name.

    Raises:
        Damaged: if all of them are broken.
    """
    if errors and len(errors) == number:
        raise files.Damaged(errors[0])
    if errors:
        named = "; ".join(errors[:5]) + ("; ..." if len(errors) > 5 else "")
        count = f"{len(errors)} files that are" if len(errors) > 1 else "a file that is"
        warnings.warn(f"skipped {count} no readable image: {named}", UserWarning, stacklevel=2)


def in_memory(
    paths: Sequence[str], size: int | None = None
) -> tuple[UInt8[np.ndarray, "num height width channels"], Integer[np.ndarray, " num"]]:
    """The readable pictures, and which of the files they are; warns of the others."""
    shape, first, modes = None if size is None else (size, size), "", set()
    broken: dict[int, str] = {}
    for i, path in enumerate(paths):
        try:
            with opened(path) as picture:
                check_mode(picture)
                turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
                own, mode = picture.size[::-1] if turned else picture.size, picture.mode
        except files.Damaged as error:
            broken[i] = str(error)
            continue
        modes.add(mode)
        if shape is None:
            shape, first = own, path
        if size is None and own != shape:
            raise files.Damaged(
                f"{path} has {own[0]} x {own[1]} pixels, but {first} {shape[0]} x {shape[1]}; all"
                " images must have the same size, or be resized and cut to N x N: --image_size=N"
            )
    mode, channels = ("L", 1) if modes <= {"1", "L"} else ("RGB", 3)
    width, height = shape or (0, 0)
    images = np.empty((len(paths), height, width, channels), np.uint8)
    for i, path in enumerate(paths):
        if i in broken:
            continue
        try:
            with opened(path) as picture:
                new = converted(picture, mode)
                images[i] = np.asarray(new if size is None else square(new, size)).reshape(
                    images.shape[1:]
                )
        except files.Damaged as error:
            broken[i] = str(error)
    warn_of_broken([broken[i] for i in sorted(broken)], len(paths))
    kept = np.array([i for i in range(len(paths)) if i not in broken])
    return images[kept] if broken else images, kept


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """An open picture; errors within the block are those of a picture that cannot be read.

    Raises:
        Damaged: names the picture that cannot be read.
    """
    pil = require("PIL.Image", "pillow", "a picture")
    with readable(path):
        files.check_regular(path)
        with pil.open(path) as picture:
            yield picture


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Names the picture that cannot be read; Pillow's decoders raise anything on broken data."""
    try:
        yield
    except files.Damaged:
        raise
    except Exception as error:
        raise files.Damaged(f"{path} is no readable image: {error}") from error


def check_mode(picture: Any) -> None:
    """Refuses an open picture of more than 8 bits a channel, by a ValueError."""
    if picture.mode not in MODES:
        raise ValueError(f"the mode is {picture.mode}; needed are 8 bits a channel")


def converted(picture: Any, mode: str) -> Any:
    """An open picture, turned as its camera says, in the mode L or RGB.

    Raises:
        ValueError: if it has more than 8 bits a channel.
    """
    check_mode(picture)
    # Pillow warns where a palette's transparency gets lost on the way to RGB, and not on this one.
    with_alpha = picture.convert("RGBA") if picture.mode in ("P", "PA") else picture
    turned = require("PIL.ImageOps", "pillow", "a picture").exif_transpose(with_alpha)
    return turned.convert(mode)


def fitted(
    path: str, shape: tuple[int, int, int], shorter: int | None = None
) -> UInt8[np.ndarray, "height width channels"]:
    """A picture of any size and kind as a network takes it.

    Its shorter side is resized to `shorter` pixels, by default to the height, and the central
    square is cut out. Where a network takes no squares, the picture is resized to its shape.

    Raises:
        Damaged: if it is no readable picture; the message names it.
    """
    pil, (height, width, channels) = require("PIL.Image", "pillow", "a picture"), shape
    with opened(path) as picture:
        new = converted(picture, "L" if channels == 1 else "RGB")
        if new.size == (width, height) and shorter is None:
            pass
        elif height == width:
            new = square(new, height, shorter)
        else:
            new = new.resize((width, height), pil.Resampling.BILINEAR)
        return np.asarray(new).reshape(shape)


def square(picture: Any, size: int, shorter: int | None = None) -> Any:
    """The shorter side resized to `shorter` pixels, by default `size`; then the central square."""
    shorter = shorter or size
    width, height = picture.size
    if width <= height:
        width, height = shorter, int(shorter * height / width)
    else:
        width, height = int(shorter * width / height), shorter
    left, top = round((width - size) / 2), round((height - size) / 2)
    bilinear = require("PIL.Image", "pillow", "an image").Resampling.BILINEAR
    resized = picture.resize((width, height), bilinear)
    return resized.crop((left, top, left + size, top + size))

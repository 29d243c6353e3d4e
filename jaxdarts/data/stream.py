"""Image sets that stay on a disk and are read batch by batch in threads.

A few batches are read before they are asked for.

What is random about an image is a function of (seed, epoch, its place in the set), and the order of
the images comes from `augment.order`; so a resumed run sees the batches that an uninterrupted one
sees.
"""

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Integer

from jaxdarts.data import images, pictures
from jaxdarts.data.optional import require
from jaxdarts.data.tfds import source as tfds_source
from jaxdarts.files import Damaged

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, pixels scaled to [0, 1]: what published networks for large images
normalise by.
"""


class Unreadable(ValueError):
    """An image cannot be read; the message is one line that names it."""


class Stored(NamedTuple):
    """Labelled images on a disk.

    num: their number.
    read: index -> (RGB picture of any size, label); threads may share it. Raises Unreadable.
    labels: where they are known without reading.
    """

    num: int
    read: Callable[[int], tuple[Any, int]]
    labels: np.ndarray | None = None


class Dataset(NamedTuple):
    """An image set on a disk, with the fields of `images.Dataset`.

    `image_shape` is [height, width, channels] of the images in a batch.
    """

    name: str
    train: Stored
    test: Stored
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: Float32[np.ndarray, " channels"]
    std: Float32[np.ndarray, " channels"]


def load(name: str, data_dir: str | None, size: int, check: bool = True) -> Dataset:
    """Finds the images of a set and keeps none of them.

    Args:
        name: `folder:PATH` as for `images.load`, with images of any size; or the TFDS name of an
            image-classification set that is prepared as `array_record`. Tests use its `test`
            images, or those of `validation` where it has no labelled ones.
        data_dir: where TFDS keeps its folders; by default `$TFDS_DATA_DIR` or
          `~/tensorflow_datasets`.
        size: height and width that the images are cut to.
        check: whether every file of a folder is decoded once, in threads, so that broken ones are
          left out, with a warning that counts and names them.

    Raises:
        ValueError: if the set is unknown, or cannot be read in any order, or nothing of a class is
          readable.
        FileNotFoundError: if there are no such data.
        ModuleNotFoundError: if a package is missing; tells the pip command.
    """
    require("PIL.Image", "pillow", f"reading {name!r}")
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        root = Path(path).expanduser()
        *files, class_names = pictures.folder_files(root)
        if check:
            files = _unbroken(root, files, class_names)
        train, test = (_files(part) for part in files)
    else:
        builder, class_names = tfds_source.opened(name, data_dir)
        train = _split(builder, "train")
        # The labels of ImageNet's test images are not public; TFDS has them as -1.
        labelled = (
            part
            for part in (_split(builder, held) for held in tfds_source.held_out(builder))
            if part.read(0)[1] >= 0
        )
        test = next(labelled, None)
        if test is None:
            raise ValueError(f"{name} has no labelled images to test on")
    return Dataset(
        name,
        train,
        test,
        class_names,
        (size, size, 3),
        np.array(MEAN, np.float32),
        np.array(STD, np.float32),
    )


def split(part: Stored, portion: float) -> tuple[Stored, Stored]:
    """Splits by place, as `images.split` does.

    Raises:
        ValueError: if either part would be empty.
    """
    count = images.first_part(part.num, portion)
    first, rest = (None, None) if part.labels is None else np.split(part.labels, [count])
    return Stored(count, part.read, first), Stored(
        part.num - count, lambda index: part.read(count + index), rest
    )


@contextlib.contextmanager
def threads(number: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that decode, by default one a core. On leaving, what has not begun is dropped."""
    pool = ThreadPoolExecutor(number or os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def batches(
    pool: ThreadPoolExecutor,
    part: Stored,
    order: Integer[np.ndarray, "steps batch"],
    size: int,
    draw: tuple[int, int] | None = None,
    ahead: int = 2,
) -> Callable[[int], dict[str, np.ndarray]]:
    """Batches of images, read in the background.

    Args:
        pool: from `threads`.
        part: the images.
        order: indices of the images of every batch.
        size: height and width to cut them to.
        draw: (seed, epoch) of random crops, for training; None for the central ones.
        ahead: how many batches after the one that is asked for are begun.

    Returns:
        get(i) -> {"image": uint8 [batch, size, size, 3], "label": int32 [batch]}, the images at
        order[i]. Ask for i in rising order, beginning anywhere. Raises Unreadable.
    """

    def read(index: int) -> tuple[np.ndarray, int]:
        picture, label = part.read(index)
        if draw is None:
            return np.asarray(central_crop(picture, size)), label
        return np.asarray(random_crop(picture, size, np.random.RandomState([*draw, index]))), label

    begun: dict[int, list[Future]] = {}

    def get(i: int) -> dict[str, np.ndarray]:
        for j in range(i, min(i + 1 + ahead, len(order))):
            if j not in begun:
                begun[j] = [pool.submit(read, int(index)) for index in order[j]]
        pixels, labels = zip(*(future.result() for future in begun.pop(i)), strict=True)
        return {"image": np.stack(pixels), "label": np.array(labels, np.int32)}

    return get


# -------------------------------------------------------------------------------------------- crops


def random_crop(picture: Any, size: int, random: np.random.RandomState) -> Any:
    """torchvision's `RandomResizedCrop(size)`: a random rectangle of an image, resized.

    The filter is Pillow's antialiased bilinear one.
    """
    left, top, width, height = random_box(picture.width, picture.height, random)
    # Cropped first: resize(box=...) would let the filter look beyond the rectangle.
    return picture.crop((left, top, left + width, top + height)).resize((size, size), _bilinear())


def random_box(width: int, height: int, random: np.random.RandomState) -> tuple[int, int, int, int]:
    """Rectangle of a random crop: (left, top, width, height).

    It has 8 to 100 % of an image's area and an aspect ratio of 3/4 to 4/3.

    Ten tries with an area that is uniform and a ratio that is uniform on a logarithmic scale, then
    the largest central rectangle of an allowed ratio. Szegedy et al., `Going Deeper with
    Convolutions <https://arxiv.org/abs/1409.4842>`_, 2015, in torchvision's form.
    """
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = random.randint(0, height - h + 1)
            return random.randint(0, width - w + 1), top, w, h
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def central_crop(picture: Any, size: int) -> Any:
    """The centre of an image whose shorter side is resized to size * 256 / 224.

    They are `Resize(256)` and `CenterCrop(224)` of torchvision.
    """
    return pictures.square(picture, size, shorter_side(size))


def shorter_side(size: int) -> int:
    """What the shorter side of an image is resized to before its central square is cut out."""
    return round(size * 256 / 224)


def _bilinear() -> Any:
    return require("PIL.Image", "pillow", "an image").Resampling.BILINEAR


# ------------------------------------------------------------------------------------------ sources


def _files(files: list[tuple[str, int]]) -> Stored:
    def read(index: int) -> tuple[Any, int]:
        file, label = files[index]
        try:
            with pictures.opened(file) as picture:
                return pictures.converted(picture, "RGB"), label
        except Damaged as error:
            raise Unreadable(str(error)) from error

    return Stored(len(files), read, np.array([label for _, label in files], np.int32))


def _unbroken(
    root: Path, parts: list[list[tuple[str, int]]], class_names: tuple[str, ...]
) -> list[list[tuple[str, int]]]:
    """The files of both parts that can be read; warns of the others."""

    def errors_of(paths: list[str]) -> list[str | None]:
        errors: list[str | None] = []
        for path in paths:
            try:
                with pictures.opened(path) as picture:
                    pictures.check_mode(picture)
                    picture.draft(picture.mode, (1, 1))  # JPEG is decoded sooner at an eighth
                    picture.load()
                errors.append(None)
            except Damaged as error:
                errors.append(str(error))
        return errors

    paths = [path for part in parts for path, _ in part]
    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    with threads() as pool:
        errors = [error for chunk in pool.map(errors_of, chunks) for error in chunk]
    pictures.warn_of_broken([error for error in errors if error], len(paths))
    rest = iter(errors)
    kept = [[one for one in part if next(rest) is None] for part in parts]
    pictures.check_readable(root, class_names, *(np.array([y for _, y in part]) for part in kept))
    return kept


def _split(builder: Any, name: str) -> Stored:
    pil = require("PIL.Image", "pillow", builder.name)
    num, record = tfds_source.random_access(builder, name)

    def read(index: int) -> tuple[Any, int]:
        encoded, label = record(index)
        try:
            with (
                pictures.readable(f"image {index} of {builder.info.full_name}, {name},"),
                pil.open(io.BytesIO(encoded)) as picture,
            ):
                return pictures.converted(picture, "RGB"), label
        except Damaged as error:
            raise Unreadable(str(error)) from error

    return Stored(num, read)

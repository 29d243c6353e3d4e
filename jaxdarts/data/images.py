"""Image-classification sets as arrays of bytes in memory.

They come by TFDS name, from an npz file, from a folder of pictures, or as arrays.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Integer, UInt8

from jaxdarts import files
from jaxdarts.data import pictures
from jaxdarts.data.optional import require
from jaxdarts.data.order import four_fifths, mixed_order, permutation
from jaxdarts.data.tfds import source as tfds_source

# What published searches normalise by: mean and standard deviation of each channel of the training
# images.
_MOMENTS = {
    "cifar10": ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn_cropped": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


ARRAYS = "arrays:"
"""Beginning of the name of a set that was given as arrays."""


class Images(NamedTuple):
    """Labelled images; the fields have the same length."""

    images: UInt8[np.ndarray, "num height width channels"]
    labels: Int32[np.ndarray, " num"]

    @property
    def num(self) -> int:
        return len(self.labels)


class Dataset(NamedTuple):
    """A training set, a test set, and what both share.

    `mean` and `std` are those of every channel of the training images, with pixels scaled to [0,
    1].
    """

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    mean: Float32[np.ndarray, " channels"]
    std: Float32[np.ndarray, " channels"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.train.images.shape
        return height, width, channels


def load(name: str, data_dir: str | None = None, size: int | None = None) -> Dataset:
    """Loads a data set into memory.

    Args:
        name: one of

            - `digits`: the 1,797 digits of 8 x 8 pixels that come with scikit-learn; their 17 grey
              levels v become the bytes round(v * 255 / 16), and a fixed permutation splits them
              into 1,437 and 360;
            - the TFDS name of an image-classification set, such as `cifar10`, `cifar100`,
              `svhn_cropped`, `mnist`, `fashion_mnist`: the splits `train` and `test` (`validation`
              where there is no `test`), in the official order where TFDS records it, else in TFDS'
              own. The five named here are downloaded and prepared where necessary; the others need
              TensorFlow for that, though not to read a folder prepared as `array_record`;
            - `npz:PATH`: a NumPy archive with the arrays `images_train`, `labels_train`,
              `images_test`, `labels_test` (or `x_train`, `y_train`, `x_test`, `y_test`, or, as in
              MedMNIST, `train_images`, `train_labels`, `test_images`, `test_labels`): images uint8
              [N, H, W, C] or [N, H, W], labels integers from 0, each of which occurs; the training
              images are shuffled by a fixed permutation. Where there is no test part, `val` (or
              `valid`, `validation`) takes its place; beside one it is left out, with a warning;
            - `folder:PATH`: pictures in `PATH/train/<class>/` and `PATH/test/<class>/` (`Training`,
              `Testing`, `val`, `valid` and `validation` mean the same, in any case; a `val` beside
              a `test` is left out, with a warning), or in
              `PATH/<class>/`, a fifth of which then becomes the test set; shuffled by a fixed
              permutation. Files that cannot be read are left out, with a warning that counts and
              names them.

            A permutation leaves examples of every class in both halves of the training set, where
            the class has two.
        data_dir: where TFDS keeps its folders; by default `$TFDS_DATA_DIR` or
          `~/tensorflow_datasets`.
        size: of `folder:PATH`: pictures of any size are resized so that their shorter side has this
          many pixels, and cut to the central square; None to take pictures of one size as they are.

    Raises:
        ValueError: if the name is unknown or the data are not labelled uint8 images of one shape.
        FileNotFoundError: if there are no such data and they cannot be downloaded.
        ModuleNotFoundError: if the set needs a package that is missing; tells the pip command.

    >>> load("digits").train.images.shape
    (1437, 8, 8, 1)
    """
    kind, _, path = name.partition(":")
    if size is not None and kind != "folder":
        raise ValueError(f"{name}: a size is for folder:PATH only")
    if name.startswith(ARRAYS):
        raise ValueError("arrays given to a function in Python; call it again with them")
    if name == "digits":
        arrays, class_names = _digits()
    elif kind == "npz" and path:
        arrays, class_names = _npz(Path(path).expanduser())
    elif kind == "folder" and path:
        arrays, class_names = _folder(Path(path).expanduser(), size)
    else:
        arrays, class_names = tfds_source.read(name, data_dir)
    train, test = (
        _checked(name, split, arrays[f"images_{split}"], arrays[f"labels_{split}"])
        for split in ("train", "test")
    )
    _check_shapes(name, train, test)
    if kind == "npz":
        _check_labels(name, train.labels, test.labels)
        train = _mixed(train)
    return _dataset(name, train, test, class_names, _MOMENTS.get(kind))


def of_arrays(
    images: Any,
    labels: Any,
    test_images: Any = None,
    test_labels: Any = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """A data set from arrays in memory; as from `npz:PATH`, training images are shuffled.

    Args:
        images: uint8 [N, height, width, channels], or [N, height, width] of grey ones.
        labels: integers [N] from 0, each of which occurs.
        test_images, test_labels: the test set; None to hold a fifth of the images out, the same one
            for the same labels, with examples of every class that has two.
        class_names: one name for each label; by default the labels themselves.

    Returns:
        The data set; its name has a checksum of the arrays.

    Raises:
        ValueError: if the arrays are no such images and labels.
    """
    name = ARRAYS.rstrip(":")
    if (test_images is None) != (test_labels is None):
        raise ValueError(f"{name}: test images and test labels come together")
    train = _checked(name, "train", np.asarray(images), np.asarray(labels))
    if test_images is None:
        first, held_out = four_fifths(train.labels)
        if not len(first) or not len(held_out):
            raise ValueError(f"{name}: {train.num} images; too few to hold a fifth out for a test")
        train, test = (Images(train.images[part], train.labels[part]) for part in (first, held_out))
    else:
        test = _checked(name, "test", np.asarray(test_images), np.asarray(test_labels))
    _check_shapes(name, train, test)
    _check_labels(name, train.labels, test.labels)
    if class_names is not None:
        class_names = tuple(map(str, class_names))
        if len(class_names) != int(train.labels.max()) + 1:
            raise ValueError(
                f"{name}: {len(class_names)} class names, but {int(train.labels.max()) + 1} classes"
            )
    digest = hashlib.sha256(repr(class_names).encode())
    for part in (*train, *test):
        digest.update(f"{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data)
    return _dataset(f"{ARRAYS}{digest.hexdigest()[:12]}", _mixed(train), test, class_names)


def _dataset(
    name: str,
    train: Images,
    test: Images,
    class_names: tuple[str, ...] | None,
    moments: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Dataset:
    """A set of checked images; by default the names of the classes are their numbers."""
    if class_names is None:
        class_names = tuple(
            str(label) for label in range(1 + max(train.labels.max(), test.labels.max()))
        )
    mean, std = moments or _moments(train.images)
    return Dataset(
        name, train, test, class_names, np.asarray(mean, np.float32), np.asarray(std, np.float32)
    )


def _mixed(train: Images) -> Images:
    order = mixed_order(train.labels)
    return Images(train.images[order], train.labels[order])


def _check_shapes(name: str, train: Images, test: Images) -> None:
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"{name}: train images are {train.images.shape[1:]}, but test images"
            f" {test.images.shape[1:]}"
        )


def split(images: Images, portion: float) -> tuple[Images, Images]:
    """Splits by index: the first `portion` of the examples, and the rest; both are views.

    Nothing is shuffled, as in the published protocol, whose search trains weights on the first half
    of the training set and the architecture on the second.

    Raises:
        ValueError: if either part would be empty.

    >>> images = Images(np.zeros((5, 1, 1, 1), np.uint8), np.arange(5, dtype=np.int32))
    >>> first, second = split(images, 0.5)
    >>> first.labels, second.labels
    (array([0, 1], dtype=int32), array([2, 3, 4], dtype=int32))
    """
    count = first_part(images.num, portion)
    return Images(*(field[:count] for field in images)), Images(
        *(field[count:] for field in images)
    )


def first_part(size: int, portion: float) -> int:
    """Number of examples in the first `portion` of `size` examples.

    Raises:
        ValueError: if that is none or all of them.
    """
    count = int(portion * size) if 0 < portion < 1 else 0
    if not 0 < count < size:
        raise ValueError(
            f"portion {portion} of {size} examples leaves a part empty; both parts need an example"
        )
    return count


def balanced(
    labels: Int32[np.ndarray, " num"], order: Integer[np.ndarray, " places"]
) -> Integer[np.ndarray, " places"]:
    """An order of as many images in which all classes take turns.

    Images of rare classes come several times, and of common ones as many of the first as fit.

    >>> balanced(np.array([0, 0, 0, 1], np.int32), np.array([2, 3, 1, 0]))
    array([2, 3, 1, 3])
    """
    of_class = [order[labels[order] == label] for label in np.unique(labels[order])]
    turns = np.arange(len(order))
    chosen = np.empty_like(order)
    for i, members in enumerate(of_class):
        mine = turns % len(of_class) == i
        chosen[mine] = members[turns[mine] // len(of_class) % len(members)]
    return chosen


def _checked(name: str, part: str, images: np.ndarray, labels: np.ndarray) -> Images:
    if images.dtype != np.uint8:
        way = "; scale those from 0 to 1 by 255 and round" if images.dtype.kind == "f" else ""
        raise ValueError(
            f"{name}: {part} images are {images.dtype}; needed is uint8 (0 to 255){way}"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ValueError(
            f"{name}: {part} images have shape {images.shape}; needed is [N, H, W, C] or [N, H, W]"
        )
    _, height, width, channels = images.shape
    if channels > 4 and height == width == channels:
        raise ValueError(
            f"{name}: {part} images have shape {images.shape}: volumes of {height} x {width} x"
            f" {channels}; needed are pictures [N, H, W, C] or [N, H, W], such as one slice of each"
        )
    if channels > 4 and height in (1, 3, 4):
        raise ValueError(
            f"{name}: {part} images have shape {images.shape}: are the {height} channels first?"
            " Needed is [N, H, W, C]: transpose by (0, 2, 3, 1)"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras stores them
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name}: {part} labels are {labels.dtype} {labels.shape}; needed are integers [N]"
        )
    if len(images) != len(labels):
        raise ValueError(f"{name}: {len(images)} {part} images, but {len(labels)} labels")
    if not images.size:
        raise ValueError(f"{name}: the {part} images are empty: {images.shape}")
    least, largest = int(labels.min()), int(labels.max())
    if least < 0:
        raise ValueError(f"{name}: {part} labels contain {least}; labels start at 0")
    if largest >= 2**31 - 1:  # would wrap around as int32
        raise ValueError(f"{name}: {part} labels contain {largest}, which numbers no class")
    return Images(images, labels.astype(np.int32))


def _check_labels(name: str, train: np.ndarray, test: np.ndarray) -> None:
    """Refuses labels that leave out a class, and classes of the test part alone."""
    present = np.union1d(train, test)
    largest = int(present[-1])
    if len(present) == largest + 1:
        if (untrained := np.setdiff1d(test, train)).size:
            text = ", ".join(map(str, untrained[:5])) + (", ..." if len(untrained) > 5 else "")
            raise ValueError(
                f"{name}: test labels contain {text}, which train lacks: do the labels of both"
                " parts start at 0, and is an image of every class in train?"
            )
        return
    missing = np.setdiff1d(np.arange(min(largest, len(present) + 5)), present)[:5].tolist()
    more = largest + 1 - len(present) - len(missing)
    text = ", ".join(map(str, missing)) + (f" and {more} more" if more else "")
    reason = ": do they start at 1? Subtract 1" if missing[0] == 0 else "; number the classes anew"
    raise ValueError(
        f"{name}: labels reach {largest}, but {text} do not occur; labels are 0 to N - 1{reason}"
    )


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # By histograms: exact, and without a copy of the images in floating point.
    channels = images.shape[-1]
    counts = np.stack(
        [np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(channels)]
    )
    weights = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = weights @ levels
    variance = (weights * (levels - mean[:, None]) ** 2).sum(1)
    return mean, np.maximum(
        np.sqrt(variance), 1 / 255
    )  # at least one grey level: a channel may be constant


def _digits() -> tuple[Mapping[str, np.ndarray], None]:
    images, labels = require("sklearn.datasets", "scikit-learn", "'digits'").load_digits(
        return_X_y=True
    )
    order = permutation(len(labels))
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)[order]
    return (
        _arrays((images[:1437], labels[order[:1437]]), (images[1437:], labels[order[1437:]])),
        None,
    )


def _npz(path: Path) -> tuple[Mapping[str, np.ndarray], None]:
    if not path.exists():
        raise FileNotFoundError(f"npz:{path}: no such file")
    try:
        present = files.array_names(path)
        keys = {
            f"{field}_{part}": _keys(present, field, part)
            for part in ("train", "test", "val")
            for field in ("images", "labels")
        }
        validation = keys.pop("images_val"), keys.pop("labels_val")
        if all(validation) and not (keys["images_test"] or keys["labels_test"]):
            keys |= {"images_test": validation[0], "labels_test": validation[1]}
        elif validation[0]:
            pictures.warn_of_validation(f"npz:{path}", f"the array {validation[0]}")
        for name, key in keys.items():
            if key is None:
                raise ValueError(
                    f"no array {name} (or {name.replace('images', 'x').replace('labels', 'y')}),"
                    f" only {files.listed(present)}"
                )
        stored = files.read_arrays(path, [key for key in keys.values() if key])
    except (ValueError, OSError) as error:
        raise ValueError(f"npz:{path}: {error}") from error
    return {name: stored[key] for name, key in keys.items() if key}, None


def _keys(present: Sequence[str], field: str, part: str) -> str | None:
    """The name of an array of images or labels in an archive; None where it has none."""
    other = {"images": "x", "labels": "y"}[field]
    parts = ("val", "valid", "validation") if part == "val" else (part,)
    options = [
        key for one in parts for key in (f"{field}_{one}", f"{one}_{field}", f"{other}_{one}")
    ]
    return next((key for key in options if key in present), None)


def _folder(root: Path, size: int | None) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    train, test, class_names = pictures.folder_files(root)
    images, kept = pictures.in_memory([file for file, _ in train + test], size)
    labels = np.array([label for _, label in train + test], np.int32)[kept]
    count = int(np.sum(kept < len(train)))
    pictures.check_readable(root, class_names, labels[:count], labels[count:])
    return _arrays((images[:count], labels[:count]), (images[count:], labels[count:])), class_names


def _arrays(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> Mapping[str, np.ndarray]:
    return {
        "images_train": train[0],
        "labels_train": train[1],
        "images_test": test[0],
        "labels_test": test[1],
    }

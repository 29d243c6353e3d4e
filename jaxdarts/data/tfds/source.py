"""Reads the image-classification sets of TensorFlow Datasets.

TensorFlow is used only where nothing else will do.
"""

import difflib
import hashlib
import importlib.util
import io
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdarts import files
from jaxdarts.data.optional import require
from jaxdarts.data.tfds import prepare as tfds_prepare

_PACKAGES = "tensorflow-datasets importlib_resources pillow array_record"
_ARRAYS = ("images_train", "labels_train", "images_test", "labels_test")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Sets whose examples are stored with their number in the official order, which TFDS' storage order
# hides.
_NUMBERED = ("cifar10", "cifar100", "svhn_cropped")


def read(name: str, data_dir: str | None) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """Reads a set, after preparing it where it is not prepared yet and where that is possible.

    The decoded arrays are kept in one file beside the prepared folder, since decoding takes many
    seconds at every start.

    Returns:
        The arrays `images_train`, `labels_train`, `images_test`, `labels_test`, and the names of
        the classes.

    Raises:
        ValueError: if there is no such set, or it is no set of equally large, labelled images.
        FileNotFoundError: if it is not prepared and cannot be.
        ModuleNotFoundError: if a package is missing; tells the pip command.
    """
    builder, class_names = opened(name, data_dir)
    folder = Path(builder.data_path)
    cache = folder.parent / f"jaxdarts-{folder.name}.npz"
    identity = _identity(folder)
    arrays = _read_cache(cache, identity)
    if arrays is None:
        test = held_out(builder)[0]
        arrays = dict(
            zip(_ARRAYS, (*_read_split(builder, "train"), *_read_split(builder, test)), strict=True)
        )
        _write_cache(cache, identity, arrays)
    return arrays, class_names


def opened(name: str, data_dir: str | None) -> tuple[Any, tuple[str, ...]]:
    """The builder of a set that is prepared, and the names of its classes; errors as in `read`."""
    for module in ("importlib_resources", "PIL", "array_record", "tensorflow_datasets"):
        require(module, _PACKAGES, f"reading {name!r}")
    builder = _prepared_builder(name, os.path.expanduser(data_dir) if data_dir else None)
    return builder, tuple(builder.info.features[builder.info.supervised_keys[1]].names)


def held_out(builder: Any) -> list[str]:
    """The splits that may be tested on, best first.

    Raises:
        ValueError: if there is none, or none to train on.
    """
    testable = [split for split in ("test", "validation") if split in builder.info.splits]
    if not testable or "train" not in builder.info.splits:
        splits = list(builder.info.splits)
        raise ValueError(
            f"{builder.info.full_name} has the splits {splits}; needed are train, and test or"
            " validation"
        )
    return testable


def random_access(builder: Any, split: str) -> tuple[int, Callable[[int], tuple[bytes, int]]]:
    """Number of examples of a split, and a function that reads one of them.

    The function is index -> (image as stored, label); threads may share it.

    Raises:
        ValueError: if the set is not prepared as `array_record`, or the split is empty.
    """
    import tensorflow_datasets as tfds

    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{builder.data_path} is prepared as {builder.info.file_format.value}; single examples"
            " can be read from file_format='array_record' only"
        )
    image_key, label_key = builder.info.supervised_keys
    source = builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
    if not len(source):
        raise ValueError(f"{builder.name}: the split {split} is empty")

    def read(index: int) -> tuple[bytes, int]:
        record = source[index]
        return record[image_key], int(record[label_key])

    return len(source), read


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except ModuleNotFoundError as error:
        package = str(error).rpartition("No module named ")[2].strip("'")
        raise ModuleNotFoundError(
            f"{name} needs {package} even to be looked up: pip install {package}"
        ) from error
    except (ValueError, AssertionError) as error:
        raise ValueError(_unknown(name)) from error
    _check_kind(name, builder)
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    if builder.data_path.exists():
        if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD and not has_tensorflow:
            raise FileNotFoundError(
                f"{builder.data_path} is prepared as {builder.info.file_format.value}, which needs"
                " TensorFlow: pip install tensorflow, or prepare it with"
                " file_format='array_record'"
            )
        return builder
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    if builder.name in tfds_prepare.RECIPES:
        tfds_prepare.prepare(builder)
    elif has_tensorflow:
        builder.download_and_prepare()
    else:
        raise FileNotFoundError(
            f"{name} is not prepared in {builder.data_path}, and TFDS cannot prepare it without"
            " TensorFlow: pip install tensorflow, or put the prepared folder"
            " (file_format='array_record') there"
        )
    return tfds.builder(name, data_dir=data_dir)


def _unknown(name: str) -> str:
    import tensorflow_datasets as tfds

    base = re.split("[/:]", name)[0]
    names = ["digits", *tfds.list_builders(with_community_datasets=False)]
    if base in names[1:]:
        known = tfds.core.load.builder_cls(base)
        return (
            f"{name!r} is no variant of {base}; known are"
            f" {', '.join([*known.builder_configs] or [str(known.VERSION)])}"
        )
    near = difflib.get_close_matches(base, names) or [
        n for n in names if base and n.startswith(base)
    ]
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "tensorflow.org/datasets/catalog lists the names."
    )
    return f"unknown data set {name!r}: {hint} Other sources: digits, npz:PATH, folder:PATH"


def _check_kind(name: str, builder: Any) -> None:
    from tensorflow_datasets import features

    keys = builder.info.supervised_keys
    kinds: list[Any] = (
        [builder.info.features[key] for key in keys] if keys and len(keys) == 2 else []
    )
    if (
        not kinds
        or type(kinds[0]) is not features.Image
        or not isinstance(kinds[1], features.ClassLabel)
    ):
        raise ValueError(
            f"{name} is no image-classification set: its supervised_keys are {keys}, not an image"
            " and a class"
        )
    dtype: Any = kinds[0].np_dtype
    if dtype != np.uint8:
        raise ValueError(f"{name} has images of {np.dtype(dtype)}; needed is uint8")


def _read_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    image_key, label_key = builder.info.supervised_keys
    size = builder.info.splits[split].num_examples
    channels = builder.info.features[image_key].shape[-1]
    images, labels, ids = None, np.empty(size, np.int32), []
    for i, record in enumerate(_records(builder, split, image_key)):
        image = _decode(record[image_key], channels)
        if images is None:
            images = np.empty((size, *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"{builder.name}: image {i} of {split} is {image.shape}, the first one"
                f" {images.shape[1:]}; all images must have the same shape: resize them and load"
                " them as folder:PATH or npz:PATH"
            )
        images[i], labels[i] = image, record[label_key]
        ids.append(record.get("id"))
    if images is None:
        raise ValueError(f"{builder.name}: the split {split} is empty")
    if builder.name in _NUMBERED and all(ids):
        official = np.argsort(ids)
        images, labels = images[official], labels[official]
    return images, labels


def _records(
    builder: Any, split: str, image_key: str, chunk: int = 1024
) -> Iterator[Mapping[str, Any]]:
    """The stored examples in TFDS' order, their images still encoded.

    Images are not decoded by TFDS, because what it yields for a JPEG depends on whether OpenCV is
    installed.
    """
    import tensorflow_datasets as tfds

    decoders = {image_key: tfds.decode.SkipDecoding()}
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        source = builder.as_data_source(split=split, decoders=decoders)
        for start in range(0, len(source), chunk):
            yield from source.__getitems__(list(range(start, min(start + chunk, len(source)))))
    else:
        yield from builder.as_dataset(
            split=split, decoders=decoders, shuffle_files=False
        ).as_numpy_iterator()


def _decode(encoded: bytes, channels: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as picture:
        image = np.asarray(picture.convert(_MODES[channels]))
    return image[..., None] if channels == 1 else image


# -------------------------------------------------------------------------------------------- cache


def _identity(folder: Path) -> str:
    """Changes whenever the prepared folder is written anew."""
    entries = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()
    )
    return hashlib.sha256(repr(("1", entries)).encode()).hexdigest()


def _read_cache(cache: Path, identity: str) -> Mapping[str, np.ndarray] | None:
    try:
        if str(files.read_arrays(cache, ("identity",))["identity"]) != identity:
            return None
        return files.read_arrays(cache, _ARRAYS)
    except (OSError, ValueError):
        return None


def _write_cache(cache: Path, identity: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the file whole or not at all.

    Where the folder is read-only or full, the next start decodes again.
    """
    temporary = cache.with_name(f".{cache.stem}-{uuid.uuid4().hex}.npz")
    try:
        try:
            np.savez(temporary, allow_pickle=False, identity=np.array(identity), **arrays)
            os.replace(temporary, cache)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        pass

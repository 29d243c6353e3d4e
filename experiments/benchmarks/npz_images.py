"""A training set as a folder of npz files, for a machine that no data set can be downloaded to.

Each file holds `images`, uint8 [num, height, width, channels], and `labels`, integers [num]; the
files in the order of their names are the training set. `device.py --make_images=cifar10
--output=FOLDER` writes such a folder.
"""

from pathlib import Path

import numpy as np

from jaxdarts.data import images

LIMIT = 60 * 2**20
"""Most bytes of images in one file: each file is below 64 MiB, and can travel alone."""


def write(train: images.Images, folder: Path, limit: int = LIMIT) -> list[Path]:
    """Writes a training set as files of at most `limit` bytes of images."""
    folder.mkdir(parents=True, exist_ok=True)
    number = -(-train.images.nbytes // limit)
    paths = [folder / f"part-{i:02d}.npz" for i in range(number)]
    for path, pixels, labels in zip(
        paths, np.array_split(train.images, number), np.array_split(train.labels, number)
    ):
        np.savez_compressed(path, images=pixels, labels=labels)
    return paths


def read(folder: str | Path) -> images.Dataset:
    """Reads such a folder; there is no test set, which no search looks at.

    Raises:
        FileNotFoundError: if the folder holds no npz file.
        ValueError: if images are not uint8 [num, height, width, channels], or labels do not fit
          them.
    """
    paths = sorted(Path(folder).expanduser().glob("*.npz"))
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no npz files; device.py --make_images=cifar10 makes them"
        )
    parts = []
    for path in paths:
        with np.load(path) as stored:
            parts.append((stored["images"], stored["labels"]))
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"{folder}: images are {pixels.dtype} {pixels.shape} and labels {labels.shape}; see"
            " npz_images.py"
        )
    scaled = [pixels[..., c].astype(np.float32) / 255 for c in range(pixels.shape[-1])]
    mean, std = (
        np.array([f(c, dtype=np.float64) for c in scaled], np.float32) for f in (np.mean, np.std)
    )
    names = tuple(str(label) for label in range(int(labels.max()) + 1))
    nothing = images.Images(pixels[:0], labels[:0].astype(np.int32))
    return images.Dataset(
        Path(folder).name, images.Images(pixels, labels.astype(np.int32)), nothing, names, mean, std
    )

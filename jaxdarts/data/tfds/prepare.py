"""Prepares the small image sets of TensorFlow Datasets without TensorFlow.

TFDS reads a prepared `array_record` folder without TensorFlow, but it cannot write one: its
builders unpack archives and encode images by TensorFlow. Here the same archives (TFDS' own
addresses and checksums) are read by the standard library and SciPy, and TFDS' own builder writes
the folder, so any other program finds the version, features and example order it expects. One
difference: `svhn_cropped` comes without its `extra` split, a further 1.3 GB that no published
search uses.
"""

import gzip
import hashlib
import http.client
import tarfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdarts import files
from jaxdarts.data.optional import require

_PROBE_SECONDS = 8.0


class Split(NamedTuple):
    """Images of one split of an archive, and its columns.

    `columns` holds what TFDS stores beside the image, one value per example.
    """

    images: np.ndarray
    columns: Mapping[str, Any]


class Contents(NamedTuple):
    splits: Mapping[str, Split]
    class_names: Mapping[str, list[str]]  # by feature; empty where TFDS' builder already has them


class Recipe(NamedTuple):
    archives: tuple[str, ...]
    read: Callable[[Mapping[str, Path]], Contents]  # from the archives' paths by name


def prepare(builder: Any) -> None:
    """Writes the prepared folder of a TFDS builder whose name is in `RECIPES`.

    Archives are taken from `<data_dir>/downloads/manual/<name>` or `<data_dir>/downloads/manual`,
    else from TFDS' download cache, else from the network. TFDS writes to a temporary folder that it
    renames at the end, so that an interrupted run leaves nothing which a later one takes for data.

    Raises:
        ValueError: if an archive is not what TFDS' checksum list says.
        FileNotFoundError: if an archive is missing and cannot be downloaded; within ten seconds
            where the host is out of reach (TFDS alone would retry for minutes).
    """
    from tensorflow_datasets import download

    recipe = RECIPES[builder.name]
    infos = {
        info.filename: (url, info)
        for url, info in builder.url_infos.items()
        if info.filename in recipe.archives
    }
    if gone := sorted(set(recipe.archives) - set(infos)):
        raise ValueError(
            f"{builder.name}: this version of tensorflow-datasets does not list the archive"
            f" {gone[0]}"
        )
    downloads = Path(builder.data_dir_root) / "downloads"
    by_hand = _find_by_hand(downloads / "manual", builder.name, infos)
    missing = {name: info for name, info in infos.items() if name not in by_hand}
    if any(not _is_cached(downloads / builder.name, *info) for info in missing.values()):
        url = next(iter(missing.values()))[0]
        if problem := _probe(url):
            raise FileNotFoundError(_how_to_provide(builder.name, downloads, missing, problem))

    def split_generators(dl_manager):
        fetched = (
            dl_manager.download({name: url for name, (url, _) in missing.items()})
            if missing
            else {}
        )
        contents = recipe.read({**by_hand, **{name: Path(path) for name, path in fetched.items()}})
        for feature, names in contents.class_names.items():
            builder.info.features[feature].names = names
        return {name: _examples(split) for name, split in contents.splits.items()}

    # TFDS' own builder, with its version, features and metadata; only the reading of the archives
    # is replaced.
    builder._split_generators = split_generators
    try:
        builder.download_and_prepare(
            download_config=download.DownloadConfig(try_download_gcs=False)
        )
    except OSError as error:
        # Another process may have prepared the folder meanwhile; then the final rename fails and
        # its folder is as good.
        if not builder.data_path.exists():
            if type(error).__module__.startswith("requests."):
                raise FileNotFoundError(
                    _how_to_provide(builder.name, downloads, missing, error)
                ) from error
            raise
    except download.DownloadError as error:
        raise FileNotFoundError(_how_to_provide(builder.name, downloads, missing, error)) from error


def _examples(split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
    """Examples as TFDS stores them.

    TFDS' storage order depends on their keys, which are the indices that its own builders use.
    """
    pil = require("PIL.Image", "pillow", "encoding images")
    for i, image in enumerate(split.images):
        picture = pil.fromarray(
            np.squeeze(image, -1) if image.shape[-1] == 1 else np.ascontiguousarray(image)
        )
        yield i, {"image": picture, **{name: values[i] for name, values in split.columns.items()}}


# ----------------------------------------------------------------------------------------- archives


def read_cifar(
    archive: Path, folder: str, files: Mapping[str, list[str]], label_names: Mapping[str, str]
) -> Contents:
    """Reads the binary version of CIFAR-10 or CIFAR-100.

    Args:
        archive: a `.tar.gz`.
        folder: the folder inside it.
        files: the binary files of each split.
        label_names: the text file with the class names of each label, in the order of the labels in
          a record.
    """
    splits = {}
    with tarfile.open(archive) as tar:

        def content(file: str) -> bytes:
            try:
                member = tar.extractfile(f"{folder}/{file}")
            except KeyError:
                member = None
            if member is None:
                raise ValueError(f"{archive} has no file {folder}/{file}")
            return member.read()

        names = {label: content(file).decode().split("\n") for label, file in label_names.items()}
        for split, parts in files.items():
            data = np.frombuffer(b"".join(content(part) for part in parts), np.uint8)
            if data.size % (len(label_names) + 3072):
                raise ValueError(f"{archive}: the {split} split is no whole number of records")
            records = data.reshape(-1, len(label_names) + 3072)
            images = records[:, len(label_names) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            columns: dict[str, Any] = {label: records[:, i] for i, label in enumerate(label_names)}
            columns["id"] = [f"{split}_{i:05d}" for i in range(len(images))]
            splits[split] = Split(images, columns)
    return Contents(
        splits, {label: [line for line in lines if line] for label, lines in names.items()}
    )


def read_idx(path: Path) -> np.ndarray:
    """Reads one array of unsigned bytes in the gzipped IDX format of MNIST."""
    with gzip.open(path) as file:
        data = file.read()
    rank = data[3] if len(data) >= 4 and data[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * rank
    shape = (
        np.frombuffer(data[4:start], ">u4").astype(int) if len(data) >= start else np.zeros(0, int)
    )
    if not rank or len(data) != start + shape.prod():
        raise files.Damaged(f"{path} is no complete IDX file of unsigned bytes")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_mnist(paths: Mapping[str, Path]) -> Contents:
    """Reads the four IDX files that MNIST and Fashion-MNIST consist of."""
    splits = {}
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        images = read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"])[..., None]
        labels = read_idx(paths[f"{prefix}-labels-idx1-ubyte.gz"])
        if len(images) != len(labels):
            raise ValueError(f"the {split} split has {len(images)} images but {len(labels)} labels")
        splits[split] = Split(images, {"label": labels})
    return Contents(splits, {})


def read_svhn(paths: Mapping[str, Path]) -> Contents:
    """Reads the MATLAB files of SVHN's cropped digits, in which the digit 0 has the label 10."""
    loadmat = require("scipy.io", "scipy", "reading svhn_cropped").loadmat
    splits = {}
    for split in ("train", "test"):
        arrays = loadmat(str(paths[f"{split}_32x32.mat"]), variable_names=("X", "y"))
        images = np.moveaxis(arrays["X"], -1, 0)
        ids = [f"{split}_{i:06d}" for i in range(len(images))]
        splits[split] = Split(images, {"label": arrays["y"].reshape(-1) % 10, "id": ids})
    return Contents(splits, {})


def _read_cifar10(paths: Mapping[str, Path]) -> Contents:
    files = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    return read_cifar(
        paths["cifar-10-binary.tar.gz"],
        "cifar-10-batches-bin",
        files,
        {"label": "batches.meta.txt"},
    )


def _read_cifar100(paths: Mapping[str, Path]) -> Contents:
    label_names = {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"}
    files = {"train": ["train.bin"], "test": ["test.bin"]}
    return read_cifar(paths["cifar-100-binary.tar.gz"], "cifar-100-binary", files, label_names)


_MNIST_FILES = tuple(
    f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")
)

RECIPES: Mapping[str, Recipe] = {
    "cifar10": Recipe(("cifar-10-binary.tar.gz",), _read_cifar10),
    "cifar100": Recipe(("cifar-100-binary.tar.gz",), _read_cifar100),
    "svhn_cropped": Recipe(("train_32x32.mat", "test_32x32.mat"), read_svhn),
    "mnist": Recipe(_MNIST_FILES, read_mnist),
    "fashion_mnist": Recipe(_MNIST_FILES, read_mnist),
}

# ------------------------------------------------------------------------------- where archives are


def _find_by_hand(manual: Path, name: str, infos: Mapping[str, tuple[str, Any]]) -> dict[str, Path]:
    paths = {}
    for filename, (url, info) in infos.items():
        # A set's own folder comes first: the archives of mnist and fashion_mnist have the same
        # names.
        path = next((p for p in (manual / name / filename, manual / filename) if p.is_file()), None)
        if path is None:
            continue
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if checksum != info.checksum:
            raise files.Damaged(
                f"{path} is not the archive of {name}: its sha256 is {checksum}"
                f" ({path.stat().st_size} bytes), TFDS expects {info.checksum} ({int(info.size)}"
                f" bytes); put {url} into {manual / name} or remove the file"
            )
        paths[filename] = path
    return paths


def _is_cached(folder: Path, url: str, info: Any) -> bool:
    from etils import epath
    from tensorflow_datasets.core.download import resource

    return resource.is_locally_cached(
        epath.Path(folder / resource.get_dl_fname(url, info.checksum))
    )


def _probe(url: str) -> str | None:
    """Returns why the address cannot be reached, or None.

    Honours proxies and takes at most `_PROBE_SECONDS`.
    """
    problem: list[str | None] = [f"no answer within {_PROBE_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=_PROBE_SECONDS
            ).close()
            problem[0] = None
        except urllib.error.HTTPError as error:
            # An answer all the same; but TFDS would retry a server error for minutes.
            problem[0] = f"HTTP {error.code}" if error.code >= 500 else None
        except (OSError, http.client.HTTPException) as error:
            problem[0] = str(getattr(error, "reason", error))

    # A thread, because looking up a host name has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return problem[0]


def _how_to_provide(
    name: str, downloads: Path, missing: Mapping[str, tuple[str, Any]], problem: object
) -> str:
    urls = [url for url, _ in missing.values()]
    host = urllib.parse.urlsplit(urls[0]).netloc
    reason = " ".join(str(problem).split())
    return (
        f"{name} is neither prepared in {downloads.parent} nor downloadable from {host} ({reason}):"
        f" get {', '.join(urls)} elsewhere, put {'it' if len(urls) == 1 else 'them'} into"
        f" {downloads / 'manual' / name} and run again"
    )

"""TFDS folders, their preparation from the archives that TFDS downloads, and the cache of decoded
images.
"""

import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import shutil
import socket
import struct
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jaxdarts.data import images
from jaxdarts.data.tfds import prepare as tfds_prepare
from jaxdarts.data.tfds import source as tfds_source

RNG = np.random.RandomState(0)
SHARED = Path(os.environ.get("JAXDARTS_SHARED", Path(__file__).parents[4] / "shared"))


def labelled(size, *shape, classes=10):
    return RNG.randint(0, 256, (size, *shape), np.uint8), RNG.randint(0, classes, size)


def pairs(part):
    return sorted((image.tobytes(), int(label)) for image, label in zip(*part, strict=True))


def assert_one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.fixture
def tfds():
    for module in ("importlib_resources", "PIL", "array_record"):
        pytest.importorskip(module)
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()
    return tfds


# ----------------------------------------------------------------------------------- small archives
# in the real formats


def write_tar(path, folder, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def cifar_records(pictures, *labels):
    columns = [np.asarray(column, np.uint8)[:, None] for column in labels]
    return np.concatenate(
        [*columns, pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)], 1
    ).tobytes()


def write_cifar10(folder, train, test):
    """`train` has a multiple of five examples, since the archive has five files of them."""
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    files = {
        f"data_batch_{i + 1}.bin": cifar_records(*(np.split(field, 5)[i] for field in train))
        for i in range(5)
    }
    files |= {
        "test_batch.bin": cifar_records(*test),
        "batches.meta.txt": ("\n".join(names) + "\n\n").encode(),
    }
    return write_tar(folder / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def write_mnist(folder, train, test):
    folder.mkdir(parents=True)
    for prefix, (pictures, labels) in (("train", train), ("t10k", test)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", pictures)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return [path for path in sorted(folder.iterdir()) if path.is_file()]


def expect(monkeypatch, tfds, name, files, address="http://127.0.0.1:9"):
    """Lets TFDS expect these files, at a local address, in place of the real archives."""
    builder = type(tfds.builder(name, data_dir="unused"))
    infos = {}
    for file in files:
        old = next(info for info in builder.url_infos.values() if info.filename == file.name)
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        infos[f"{address}/{file.name}"] = dataclasses.replace(
            old, checksum=checksum, size=type(old.size)(file.stat().st_size)
        )
    monkeypatch.setattr(builder, "url_infos", infos)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


# -------------------------------------------------------------------------------------- preparation


def test_cifar10_placed_by_hand(tfds, monkeypatch, tmp_path):
    train, test = labelled(50, 32, 32, 3), labelled(20, 32, 32, 3)
    path = write_cifar10(tmp_path / "downloads" / "manual", train, test)
    with pytest.raises(ValueError) as error:
        images.load("cifar10", str(tmp_path))
    assert_one_line(
        error, str(path), "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    )
    assert not list(tmp_path.glob("cifar10/3*"))
    expect(monkeypatch, tfds, "cifar10", [path])
    (tmp_path / "cifar10" / "incomplete.ABCDEF_3.0.2").mkdir(
        parents=True
    )  # left by a killed process
    for _ in range(2):  # prepared, then from the cache
        data = images.load("cifar10", str(tmp_path))
        np.testing.assert_array_equal(data.train.images, train[0])  # the official order
        np.testing.assert_array_equal(data.train.labels, train[1])
        np.testing.assert_array_equal(data.test.images, test[0])
        assert data.class_names[0] == "airplane" and len(data.class_names) == 10
        np.testing.assert_allclose(data.std, [0.24703233, 0.24348505, 0.26158768])
        shutil.rmtree(tmp_path / "downloads", ignore_errors=True)
    # Other programs find what TFDS itself would have written.
    encoded = {"image": tfds.decode.SkipDecoding()}
    source = tfds.data_source("cifar10", split="train", data_dir=tmp_path, decoders=encoded)
    assert sorted(record["id"] for record in source) == [b"train_%05d" % i for i in range(50)]


def test_cifar100_placed_by_hand(tfds, monkeypatch, tmp_path):
    (train, fine), (test, other) = (
        labelled(40, 32, 32, 3, classes=100),
        labelled(10, 32, 32, 3, classes=100),
    )
    files = {
        "train.bin": cifar_records(train, fine // 5, fine),
        "test.bin": cifar_records(test, other // 5, other),
    }
    names = {"coarse": [f"group{i}" for i in range(20)], "fine": [f"class{i}" for i in range(100)]}
    files |= {f"{kind}_label_names.txt": "\n".join(lines).encode() for kind, lines in names.items()}
    path = tmp_path / "downloads" / "manual" / "cifar100" / "cifar-100-binary.tar.gz"
    expect(monkeypatch, tfds, "cifar100", [write_tar(path, "cifar-100-binary", files)])
    data = images.load("cifar100", str(tmp_path))
    np.testing.assert_array_equal(data.train.images, train)
    np.testing.assert_array_equal(data.train.labels, fine)
    np.testing.assert_array_equal(data.test.labels, other)
    assert data.class_names == tuple(names["fine"])
    encoded = {"image": tfds.decode.SkipDecoding()}
    source = tfds.data_source("cifar100", split="test", data_dir=tmp_path, decoders=encoded)
    assert {record["id"]: record["coarse_label"] for record in source}[b"test_00007"] == other[
        7
    ] // 5


def test_svhn_placed_by_hand(tfds, monkeypatch, tmp_path):
    matlab = pytest.importorskip("scipy.io")
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    written = {split: labelled(12, 32, 32, 3)[0] for split in ("train", "test")}
    labels = np.arange(12) % 10 + 1  # as the files have it: 10 stands for the digit 0
    for split, pictures in written.items():
        matlab.savemat(
            manual / f"{split}_32x32.mat", {"X": np.moveaxis(pictures, 0, -1), "y": labels[:, None]}
        )
    expect(monkeypatch, tfds, "svhn_cropped", sorted(manual.iterdir()))
    data = images.load("svhn_cropped", str(tmp_path))
    np.testing.assert_array_equal(data.train.images, written["train"])
    np.testing.assert_array_equal(data.test.images, written["test"])
    assert data.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]


def test_fashion_mnist_beside_mnist(tfds, monkeypatch, tmp_path):
    train, test = labelled(40, 28, 28), labelled(10, 28, 28)
    manual = tmp_path / "downloads" / "manual"
    write_mnist(manual, test, train)
    expect(monkeypatch, tfds, "fashion_mnist", write_mnist(manual / "fashion_mnist", train, test))
    data = images.load("fashion_mnist", str(tmp_path))
    assert pairs(data.train) == pairs(train) and pairs(data.test) == pairs(test)
    assert data.class_names[-1] == "Ankle boot"


def test_mnist_downloads(tfds, monkeypatch, tmp_path):
    train, test = labelled(40, 28, 28), labelled(10, 28, 28)
    files = write_mnist(tmp_path / "served", train, test)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            expect(monkeypatch, tfds, "mnist", files, f"http://127.0.0.1:{server.server_port}")
            data = images.load("mnist", str(tmp_path / "data"))
        finally:
            server.shutdown()
            thread.join()
    assert pairs(data.train) == pairs(train)
    assert data.test.images.shape == (10, 28, 28, 1)


def test_offline_fails_fast_in_one_line(tfds, monkeypatch, tmp_path):
    path = write_cifar10(tmp_path / "elsewhere", labelled(5, 32, 32, 3), labelled(1, 32, 32, 3))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        expect(monkeypatch, tfds, "cifar10", [path], address)
        start = time.monotonic()
        with pytest.raises(FileNotFoundError) as error:
            images.load("cifar10", str(tmp_path / "data"))
        assert time.monotonic() - start < 10
    folder = tmp_path / "data" / "downloads" / "manual" / "cifar10"
    assert_one_line(error, f"{address}/cifar-10-binary.tar.gz", str(folder))
    folder.mkdir(parents=True)  # what the message asks for helps
    shutil.copy(path, folder)
    assert len(images.load("cifar10", str(tmp_path / "data")).train.labels) == 5


def test_probe_gives_up_on_a_silent_host(monkeypatch):
    answer = threading.Event()

    def urlopen(
        *args, **kwargs
    ):  # like a name server that does not answer: no timeout of the socket helps
        answer.wait(5)
        raise OSError("too late")

    monkeypatch.setattr(tfds_prepare, "_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(tfds_prepare.urllib.request, "urlopen", urlopen)
    assert "no answer" in tfds_prepare._probe("http://127.0.0.1/")
    answer.set()


def test_broken_archives(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"))
    with pytest.raises(ValueError, match="no complete IDX file"):
        tfds_prepare.read_idx(tmp_path / "a.gz")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"\0\0\x08\x03\0\0"))
    with pytest.raises(ValueError, match="no complete IDX file"):
        tfds_prepare.read_idx(tmp_path / "b.gz")
    path = write_tar(tmp_path / "c.tar.gz", "cifar-10-batches-bin", {"batches.meta.txt": b"a\n"})
    with pytest.raises(ValueError, match=r"has no file cifar-10-batches-bin/data_batch_1\.bin"):
        tfds_prepare.RECIPES["cifar10"].read({"cifar-10-binary.tar.gz": path})


def test_interrupted_preparation_leaves_no_folder(tfds, monkeypatch, tmp_path):
    path = write_cifar10(
        tmp_path / "downloads" / "manual", labelled(5, 32, 32, 3), labelled(1, 32, 32, 3)
    )
    expect(monkeypatch, tfds, "cifar10", [path])
    examples = tfds_prepare._examples

    def interrupted(split):
        yield from list(examples(split))[:2]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tfds_prepare, "_examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            images.load("cifar10", str(tmp_path))
    assert not list((tmp_path / "cifar10").iterdir())
    assert len(images.load("cifar10", str(tmp_path)).train.labels) == 5


def test_two_processes_may_prepare_at_once(tfds, monkeypatch, tmp_path):
    path = write_cifar10(
        tmp_path / "downloads" / "manual", labelled(5, 32, 32, 3), labelled(1, 32, 32, 3)
    )
    expect(monkeypatch, tfds, "cifar10", [path])
    images.load("cifar10", str(tmp_path))
    folder, other = tmp_path / "cifar10" / "3.0.2", tmp_path / "other"
    folder.rename(other)
    examples = tfds_prepare._examples

    def overtaken(split):
        yield from examples(split)
        if not folder.exists():
            shutil.copytree(other, folder)

    monkeypatch.setattr(tfds_prepare, "_examples", overtaken)
    assert len(images.load("cifar10", str(tmp_path)).train.labels) == 5
    assert sorted(path.name for path in folder.parent.iterdir()) == ["3.0.2", "jaxdarts-3.0.2.npz"]


# ------------------------------------------------------------------------------------------ reading


def prepared(tfds, name, data_dir, splits):
    """Writes a folder under the name and version of a TFDS set, with other examples."""
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder._split_generators = lambda dl_manager: {
        split: tfds_prepare._examples(tfds_prepare.Split(pictures, {"label": labels}))
        for split, (pictures, labels) in splits.items()
    }
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_path)


def test_cache_is_tied_to_its_folder(tfds, monkeypatch, tmp_path):
    first, second = labelled(20, 28, 28, 1), labelled(20, 28, 28, 1)
    folder = prepared(tfds, "mnist", tmp_path, {"train": first, "test": first})
    cache = folder.parent / "jaxdarts-3.0.1.npz"
    assert pairs(images.load("mnist", str(tmp_path)).train) == pairs(first)
    assert sorted(folder.parent.iterdir()) == [folder, cache]
    with monkeypatch.context() as patch:
        patch.setattr(tfds_source, "_read_split", None)  # must not be needed any more
        assert pairs(images.load("mnist", str(tmp_path)).train) == pairs(first)
    shutil.rmtree(folder)
    prepared(tfds, "mnist", tmp_path, {"train": second, "test": second})
    assert pairs(images.load("mnist", str(tmp_path)).train) == pairs(second)
    cache.write_bytes(cache.read_bytes()[:-100])
    assert pairs(images.load("mnist", str(tmp_path)).train) == pairs(second)


def test_cache_is_optional(tfds, monkeypatch, tmp_path):
    folder = prepared(
        tfds, "mnist", tmp_path, {"train": labelled(5, 28, 28, 1), "test": labelled(5, 28, 28, 1)}
    )

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(tfds_source.os, "replace", refuse)
    assert len(images.load("mnist", str(tmp_path)).train.labels) == 5
    assert list(folder.parent.iterdir()) == [folder]


def test_validation_stands_in_for_test(tfds, tmp_path):
    pictures = labelled(6, 32, 32, 3)
    prepared(tfds, "imagenet_resized/32x32", tmp_path, {"train": pictures, "validation": pictures})
    data = images.load("imagenet_resized/32x32", str(tmp_path))
    assert pairs(data.test) == pairs(pictures) and len(data.class_names) == 1000


def test_images_of_several_shapes_are_refused(tfds, tmp_path):
    ragged = [*labelled(3, 8, 8, 3)[0], *labelled(3, 8, 9, 3)[0]]
    prepared(
        tfds, "food101", tmp_path, {"train": (ragged, [0] * 6), "validation": (ragged, [0] * 6)}
    )
    with pytest.raises(ValueError) as error:
        images.load("food101", str(tmp_path))
    assert_one_line(error, "food101", "same shape")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar11", ("did you mean", "cifar10")),
        ("cifar-10", ("did you mean", "cifar10")),
        ("svhn", ("svhn_cropped",)),
        ("diggits", ("digits",)),
        ("emnist/foo", ("balanced",)),
        ("npz:", ("npz:PATH",)),
        ("imdb_reviews", ("no image-classification set",)),
    ],
)
def test_names_that_do_not_work(tfds, tmp_path, name, words):
    with pytest.raises(ValueError) as error:
        images.load(name, str(tmp_path))
    assert_one_line(error, name, *words)


def test_other_sets_need_tensorflow_to_be_prepared(tfds, monkeypatch, tmp_path):
    find_spec = tfds_source.importlib.util.find_spec
    monkeypatch.setattr(
        tfds_source.importlib.util,
        "find_spec",
        lambda n: None if n == "tensorflow" else find_spec(n),
    )
    with pytest.raises(FileNotFoundError) as error:
        images.load("food101", str(tmp_path))
    assert_one_line(error, "food101", str(tmp_path), "pip install tensorflow")


def test_real_cifar10_pictures(tfds, monkeypatch, tmp_path):
    shards = SHARED / "data" / "cifar10"
    if not shards.is_dir():
        pytest.skip(f"no CIFAR-10 in {shards}; set JAXDARTS_SHARED")
    from PIL import Image

    mosaic = np.asarray(Image.open(shards / "test_00.webp"))[:320]
    pictures = mosaic.reshape(10, 32, 50, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
    labels = np.load(shards / "test_labels.npy")[: len(pictures)]
    path = write_cifar10(
        tmp_path / "downloads" / "manual", (pictures, labels), (pictures[:100], labels[:100])
    )
    expect(monkeypatch, tfds, "cifar10", [path])
    data = images.load("cifar10", str(tmp_path))
    np.testing.assert_array_equal(data.train.images, pictures)
    np.testing.assert_array_equal(data.train.labels, labels)
    names = [data.class_names[label] for label in data.train.labels[:4]]
    assert names == ["cat", "ship", "ship", "airplane"]  # the first four of the official test set

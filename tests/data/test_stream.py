"""Images read from a disk: crops against their definitions, the same batches whenever and however
they are asked for.
"""

import math
import os
import threading

import jax
import numpy as np
import pytest

from jaxdarts.data import feed, images, pictures, stream
from jaxdarts.data.tfds import prepare as tfds_prepare

Image = pytest.importorskip("PIL.Image")
RNG = np.random.RandomState(0)


def write(path, width, height, mode="RGB"):
    """A smooth picture, which survives JPEG; its mean red tells it apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = RNG.randint(0, 256, (3, 3, 3), np.uint8)
    Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(
        path
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of pictures of many sizes, formats and modes."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(9):
        write(root / "train" / "ab"[i % 2] / f"{i}.JPEG", 40 + 17 * i, 90 - 5 * i)
        write(root / "val" / "ab"[i % 2] / f"{i}.png", 30 + 9 * i, 33, ("RGB", "L", "P")[i % 3])
    write(root / "train" / "a" / "cmyk.jpg", 50, 50, "CMYK")
    return root


def order(num, batch, steps):
    return np.stack([np.random.RandomState(1).permutation(num)[:batch] for _ in range(steps)])


def assert_equal(one, other):
    np.testing.assert_array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(one["label"], other["label"])


# -------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (60, 64)])
def test_random_boxes_have_the_published_distribution(width, height):
    boxes = np.array(
        [stream.random_box(width, height, np.random.RandomState([0, 1, i])) for i in range(4000)]
    )
    left, top, w, h = boxes.T
    assert (
        (left >= 0).all()
        and (top >= 0).all()
        and (left + w <= width).all()
        and (top + h <= height).all()
    )
    area, ratio = w * h / (width * height), np.log(w / h)
    slack = 2 / min(w.min(), h.min())  # both sides are rounded to whole pixels
    assert (
        area.min() > 0.08 - slack and area.max() <= 1 and abs(ratio).max() < math.log(4 / 3) + slack
    )
    # The same definition once more, by rejection over arrays: areas and ratios that fit into the
    # image.
    rng = np.random.RandomState(7)
    areas, ratios = (
        rng.uniform(0.08, 1, 40000) * width * height,
        np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 40000)),
    )
    ws, hs = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (ws <= width) & (hs <= height)
    for mine, published in (
        (area, (ws * hs)[fits] / (width * height)),
        (ratio, np.log(ws / hs)[fits]),
    ):
        np.testing.assert_allclose(
            np.quantile(mine, (0.1, 0.5, 0.9)), np.quantile(published, (0.1, 0.5, 0.9)), atol=0.04
        )
    room = width - w > 20
    assert abs(np.mean(left[room] / (width - w[room])) - 0.5) < 0.03
    room = height - h > 20
    assert abs(np.mean(top[room] / (height - h[room])) - 0.5) < 0.03


@pytest.mark.parametrize(
    "width, height, box",
    [(1000, 10, (493, 0, 13, 10)), (10, 1000, (0, 493, 10, 13)), (1, 1, (0, 0, 1, 1))],
)
def test_boxes_of_images_that_no_try_fits(width, height, box):
    assert stream.random_box(width, height, np.random.RandomState(0)) == box


def test_a_random_crop_is_the_resized_box():
    picture = Image.fromarray(RNG.randint(0, 256, (60, 80, 3), np.uint8))
    left, top, width, height = stream.random_box(80, 60, np.random.RandomState([3, 1, 2]))
    box = picture.crop((left, top, left + width, top + height))
    np.testing.assert_array_equal(
        stream.random_crop(picture, 32, np.random.RandomState([3, 1, 2])),
        box.resize((32, 32), Image.Resampling.BILINEAR),
    )


@pytest.mark.parametrize(
    "width, height, size, resized",
    [(500, 375, 224, (341, 256)), (375, 500, 224, (256, 341)), (20, 20, 56, (64, 64))],
)
def test_the_central_crop(width, height, size, resized):
    picture = Image.fromarray(RNG.randint(0, 256, (height, width, 3), np.uint8))
    resized_picture = np.asarray(picture.resize(resized, Image.Resampling.BILINEAR))
    top, left = round((resized[1] - size) / 2), round((resized[0] - size) / 2)
    np.testing.assert_array_equal(
        stream.central_crop(picture, size), resized_picture[top : top + size, left : left + size]
    )


# ------------------------------------------------------------------------------------------ batches


def test_a_folder_of_many_sizes(folder):
    data = stream.load(f"folder:{folder}", None, 16)
    assert (data.train.num, data.test.num, data.class_names, data.image_shape) == (
        10,
        9,
        ("a", "b"),
        (16, 16, 3),
    )
    with stream.threads(2) as pool:
        batch = stream.batches(pool, data.test, np.arange(9)[None], 16)(0)
    assert batch["image"].shape == (9, 16, 16, 3) and batch["image"].dtype == np.uint8
    files = pictures.folder_files(folder)[1]
    for (file, label), image, batch_label in zip(
        files, batch["image"], batch["label"], strict=True
    ):
        with Image.open(file) as picture:
            np.testing.assert_array_equal(image, stream.central_crop(picture.convert("RGB"), 16))
        assert batch_label == label
    np.testing.assert_allclose(data.mean, [0.485, 0.456, 0.406])


def test_batches_are_a_function_of_seed_epoch_and_place(folder):
    part = stream.load(f"folder:{folder}", None, 16).train
    indices = order(10, 5, 6)
    with stream.threads(3) as pool, stream.threads(1) as alone:
        batches = stream.batches(pool, part, indices, 16, (1, 4))
        batches = [batches(i) for i in range(6)]
        late = stream.batches(alone, part, indices, 16, (1, 4), ahead=0)
        for i in (3, 4, 5):  # as after a resume in the middle of an epoch
            assert_equal(late(i), batches[i])
        shuffled = stream.batches(pool, part, indices[:, ::-1], 16, (1, 4))(0)
        assert_equal(shuffled, {name: value[::-1] for name, value in batches[0].items()})
        for draw in ((2, 4), (1, 5)):
            assert (
                stream.batches(pool, part, indices, 16, draw)(0)["image"] != batches[0]["image"]
            ).any()


def test_a_few_batches_are_read_ahead_and_no_more():
    read, enough = [], threading.Event()

    def one(index):
        read.append(index)
        if len(read) == 6:
            enough.set()
        return Image.new("RGB", (4, 4)), index

    with stream.threads(1) as pool:
        get = stream.batches(pool, stream.Stored(20, one), np.arange(20).reshape(10, 2), 4, ahead=2)
        assert get(0)["label"].tolist() == [0, 1]
        assert enough.wait(10)
        assert sorted(read) == list(range(6))


def test_split_is_by_place():
    part = stream.Stored(10, lambda index: (None, index))
    first, second = stream.split(part, 0.35)
    assert (first.num, second.num) == (3, 7)
    assert [second.read(i)[1] for i in range(7)] == [3, 4, 5, 6, 7, 8, 9] and first.read(2)[1] == 2
    with pytest.raises(ValueError, match="portion 1.0 of 10"):
        stream.split(part, 1.0)


def test_a_feed_stacks_the_seeds_and_splits_over_devices(folder):
    data = stream.load(f"folder:{folder}", None, 16)
    indices = np.stack([order(10, 4, 2), order(10, 4, 2)[:, ::-1]])
    with stream.threads(2) as pool:
        fed = feed.open_feed(pool, data, (5, 6), jax.local_devices()[:2])
        batch, test = (
            fed.train(indices, 3)(1)["train"],
            fed.test(np.arange(8).reshape(1, 8))(0)["test"],
        )
        assert batch["image"].shape == (2, 2, 2, 16, 16, 3) and batch["label"].shape == (2, 2, 2)
        assert test["image"].shape == (2, 4, 16, 16, 3)
        for seed in (0, 1):
            seed_batch = stream.batches(pool, data.train, indices[seed], 16, (5 + seed, 3))(1)
            assert_equal(
                {
                    name: np.concatenate([value[0, seed], value[1, seed]])
                    for name, value in batch.items()
                },
                seed_batch,
            )


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("damage", ["cut", "text", "gone", "deep"])
def test_an_unreadable_image_is_named(folder, damage, tmp_path):
    for part in ("train", "test"):
        path = write(tmp_path / part / "a" / "b.png", 30, 30)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "text":
        path.write_text("no picture")
    elif damage == "deep":
        Image.fromarray(np.zeros((30, 30), np.uint16)).save(path)
    data = stream.load(f"folder:{tmp_path}", None, 8, check=False)
    if damage == "gone":
        path.unlink()
    with stream.threads() as pool, pytest.raises(stream.Unreadable) as error:
        stream.batches(pool, data.test, np.zeros((1, 1), int), 8)(0)
    assert (
        str(path) in str(error.value)
        and "no readable image" in str(error.value)
        and "\n" not in str(error.value)
    )


def test_broken_files_of_every_kind_are_left_out(tmp_path):
    """Streams and sets in memory hold the same pictures: those that Pillow reads to the end."""
    suffixes = (".png", ".jpg", ".tif", ".gif", ".bmp", ".webp")
    for part in ("train", "test"):
        for name in "ab":
            for suffix in suffixes:
                path = write(tmp_path / part / name / f"sound{suffix}", 60, 40)
                cut = path.with_name(f"cut{suffix}")
                cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for path in (tmp_path / "train" / "a" / "deep.tif", tmp_path / "test" / "b" / "deep.png"):
        Image.fromarray(np.zeros((40, 60), np.uint16)).save(path)
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")  # nobody writes: to open it would wait
    (tmp_path / "train" / "b" / "device.png").symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match="skipped 28 files that are no readable image") as warned:
        streamed = stream.load(f"folder:{tmp_path}", None, 8)
    with pytest.warns(UserWarning, match="skipped 28 files") as others:
        loaded = images.load(f"folder:{tmp_path}", size=8)
    assert [str(one.message) for one in warned] == [str(one.message) for one in others]
    for one, other in ((streamed.train, loaded.train), (streamed.test, loaded.test)):
        assert one.num == other.num == 2 * len(suffixes)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert [one.read(i)[1] for i in range(one.num)] == other.labels.tolist()


def test_a_part_that_nobody_can_read_is_refused(tmp_path):
    for part in ("train", "test"):
        for name in "ab":
            for i in range(2):
                write(tmp_path / part / name / f"{i}.png", 8, 8)
    for path in (tmp_path / "train" / "b").iterdir():
        path.write_text("broken")
    for load in (lambda name: stream.load(name, None, 8), lambda name: images.load(name, size=8)):
        with (
            pytest.warns(UserWarning, match="skipped 2 files"),
            pytest.raises(ValueError, match="no training image of b is readable"),
        ):
            load(f"folder:{tmp_path}")


def test_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        stream.load(f"folder:{tmp_path}/none", None, 8)
    write(tmp_path / "train" / "a" / "b.png", 8, 8)
    with pytest.raises(FileNotFoundError, match="has only train"):
        stream.load(f"folder:{tmp_path}", None, 8)
    (tmp_path / "val" / "a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="0 test images"):
        stream.load(f"folder:{tmp_path}", None, 8)


# --------------------------------------------------------------------------------------------- TFDS


@pytest.fixture
def prepared(tmp_path):
    """Writes a folder under the name and version of a TFDS set, with examples of several shapes."""
    for module in ("importlib_resources", "array_record"):
        pytest.importorskip(module)
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()

    def prepare(name, **splits):
        builder = tfds.builder(name, data_dir=tmp_path, file_format="array_record")
        builder._split_generators = lambda dl_manager: {
            split: tfds_prepare._examples(tfds_prepare.Split(pictures, {"label": labels, **more}))
            for split, (pictures, labels, more) in splits.items()
        }
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        return builder

    return prepare


def ragged(num):
    return [RNG.randint(0, 256, (20 + i % 3, 24 - i % 5, 3), np.uint8) for i in range(num)]


def test_a_tfds_set_of_many_sizes(prepared, tmp_path):
    pictures, labels = ragged(40), RNG.randint(0, 101, 40)
    builder = prepared(
        "food101", train=(pictures, labels, {}), validation=(pictures[:5], labels[:5], {})
    )
    data = stream.load("food101", str(tmp_path), 16)
    assert (data.train.num, data.test.num, len(data.class_names)) == (40, 5, 101)
    with stream.threads(4) as pool:
        batch = stream.batches(pool, data.train, np.arange(40).reshape(1, 40), 16)(0)
    expected = [
        (np.asarray(stream.central_crop(Image.fromarray(p), 16)).tobytes(), int(y))
        for p, y in zip(pictures, labels)
    ]
    assert sorted((p.tobytes(), int(y)) for p, y in zip(*batch.values(), strict=True)) == sorted(
        expected
    )
    assert builder.info.file_format.value == "array_record"


def test_unlabelled_test_images_are_passed_over(prepared, tmp_path):
    names = {"file_name": [f"{i}.JPEG" for i in range(6)]}
    parts = {
        name: (ragged(6), np.full(6, label), names)
        for name, label in (("train", 3), ("validation", 7), ("test", -1))
    }
    prepared("imagenet2012", **parts)
    data = stream.load("imagenet2012", str(tmp_path), 16)
    assert data.test.read(0)[1] == 7 and data.test.num == 6 and len(data.class_names) == 1000

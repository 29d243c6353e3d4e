"""Data sets from scikit-learn, npz files and folders of pictures, and the split by index."""

import shutil
import sys

import numpy as np
import pytest

from jaxdarts.data import images, optional, pictures

RNG = np.random.RandomState(0)


def random_images(size, *shape):
    return RNG.randint(0, 256, (size, *shape), np.uint8)


def assert_one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


# ------------------------------------------------------------------------------------------- basics


def test_digits():
    pytest.importorskip("sklearn")
    digits, again = images.load("digits"), images.load("digits")
    assert digits.train.images.shape == (1437, 8, 8, 1) and digits.test.images.shape == (
        360,
        8,
        8,
        1,
    )
    assert digits.train.images.dtype == np.uint8 and digits.train.labels.dtype == np.int32
    assert set(np.unique(digits.train.images)) == set(np.rint(np.arange(17) * 255 / 16).astype(int))
    assert digits.class_names == tuple("0123456789")
    assert np.bincount(digits.test.labels, minlength=10).min() > 20
    np.testing.assert_array_equal(digits.train.images, again.train.images)
    pixels = digits.train.images / 255
    np.testing.assert_allclose(digits.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(digits.std, pixels.std((0, 1, 2)), rtol=1e-6)
    assert digits.mean.dtype == digits.std.dtype == np.float32


def test_split_is_by_index():
    dataset = images.Images(random_images(10, 2, 2, 1), np.arange(10, dtype=np.int32))
    first, second = images.split(dataset, 0.35)
    assert first.labels.tolist() == [0, 1, 2] and second.labels.tolist() == [3, 4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(np.concatenate([first.images, second.images]), dataset.images)


@pytest.mark.parametrize("portion", [0.0, 1.0, -0.5, 1.5, 0.05, float("nan")])
def test_split_refuses_an_empty_part(portion):
    with pytest.raises(ValueError) as error:
        images.split(images.Images(random_images(10, 2, 2, 1), np.zeros(10, np.int32)), portion)
    assert_one_line(error, str(portion), "10")


def test_missing_package_tells_the_pip_command():
    with pytest.raises(ModuleNotFoundError) as error:
        optional.require("no_such_module", "no-such-package", "reading 'x'")
    assert_one_line(error, "reading 'x'", "pip install no-such-package")


def test_without_tfds_other_sources_work(monkeypatch, tmp_path):
    for module in ("tensorflow_datasets", "array_record", "importlib_resources", "PIL"):
        monkeypatch.setitem(sys.modules, module, None)
    np.savez(tmp_path / "a.npz", **npz_arrays())
    assert images.load(f"npz:{tmp_path / 'a.npz'}").test.images.shape == (2, 4, 5, 3)
    with pytest.raises(ModuleNotFoundError) as error:
        images.load("cifar10", str(tmp_path))
    assert_one_line(error, "cifar10", "pip install tensorflow-datasets")


# ---------------------------------------------------------------------------------------------- npz


def npz_arrays(**changes):
    arrays = {
        "images_train": random_images(6, 4, 5, 3),
        "labels_train": np.array([0, 1, 2, 3, 1, 2]),
        "images_test": random_images(2, 4, 5, 3),
        "labels_test": np.array([3, 1]),
    }
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


def test_npz(tmp_path):
    arrays = npz_arrays()
    arrays["images_train"][..., 1] = 7
    np.savez(tmp_path / "a.npz", **arrays)
    data = images.load(f"npz:{tmp_path / 'a.npz'}")
    assert pairs(data.train) == pairs((arrays["images_train"], arrays["labels_train"]))
    np.testing.assert_array_equal(data.test.labels, arrays["labels_test"])
    assert data.train.labels.dtype == np.int32 and data.class_names == ("0", "1", "2", "3")
    np.testing.assert_allclose(data.mean[1], 7 / 255, rtol=1e-6)
    assert data.std[1] == np.float32(1 / 255)  # the floor: this channel is constant


def test_npz_grey_and_keras_names(tmp_path):
    train, test = random_images(6, 4, 5), random_images(2, 4, 5)
    np.savez(
        tmp_path / "a.npz",
        x_train=train,
        y_train=np.zeros((6, 1), np.uint8),
        x_test=test,
        y_test=np.zeros(2, int),
    )
    data = images.load(f"npz:{tmp_path / 'a.npz'}")
    order = np.random.RandomState(0).permutation(6)
    np.testing.assert_array_equal(data.train.images, train[order, ..., None])
    assert data.train.labels.tolist() == [0] * 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels_test": None}, ("labels_test", "y_test", "images_train")),
        ({"images_train": np.zeros((6, 4, 5, 3), np.float32)}, ("float32", "uint8")),
        ({"labels_train": np.arange(5)}, ("6", "5")),
        ({"labels_train": np.array([0, 1, 2, 0, -1, 2])}, ("-1",)),
        ({"labels_train": np.zeros(6)}, ("float64", "integers")),
        ({"labels_test": np.array([4, 1])}, ("test labels contain 4, which train lacks",)),
        ({"labels_train": np.array([0, 1, 2, 0, 1, 2])}, ("test labels contain 3", "start at 0")),
        ({"images_test": random_images(2, 4, 4, 3)}, ("(4, 5, 3)", "(4, 4, 3)")),
        ({"images_test": random_images(0, 4, 5, 3), "labels_test": np.arange(0)}, ("empty",)),
        ({"images_test": random_images(2, 5)}, ("(2, 5)", "[N, H, W, C]")),
        ({"labels_train": np.array([{"not": "an array"}] * 6)}, ("allow_pickle=False",)),
    ],
)
def test_npz_errors(tmp_path, changes, words):
    path = tmp_path / "a.npz"
    np.savez(path, **npz_arrays(**changes))
    with pytest.raises(ValueError) as error:
        images.load(f"npz:{path}")
    assert_one_line(error, str(path), *words)


def medmnist(**changes):
    """Arrays with the names, types and label shapes of MedMNIST's files."""
    rng = np.random.RandomState(0)
    arrays = {}
    for part, count in (("train", 8), ("val", 4), ("test", 6)):
        arrays[f"{part}_images"] = rng.randint(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % 2)[:, None]
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def test_a_validation_part_beside_a_test_part_is_said_to_be_left_out(tmp_path):
    arrays = medmnist()
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.warns(UserWarning) as warned:
        data = images.load(f"npz:{tmp_path / 'a.npz'}")
    (warning,) = warned
    assert "the array val_images is not used" in str(warning.message)
    assert (data.train.num, data.test.num) == (8, 6)
    np.testing.assert_array_equal(data.test.images[..., 0], arrays["test_images"])
    np.testing.assert_array_equal(data.test.labels, arrays["test_labels"][:, 0])
    for part, count in (("train", 4), ("test", 2), ("val", 3)):
        for name in "ab":
            write_pictures(tmp_path / "folder" / part / name, count)
    with pytest.warns(UserWarning) as warned:
        data = images.load(f"folder:{tmp_path / 'folder'}")
    (warning,) = warned
    assert f"{tmp_path / 'folder' / 'val'} is not used" in str(warning.message)
    assert (data.train.num, data.test.num) == (8, 4)


@pytest.mark.parametrize("name", ["images_val", "val_images", "x_valid", "validation_images"])
def test_a_validation_part_alone_is_tested_on(tmp_path, name):
    arrays = medmnist(test_images=None, test_labels=None)
    pixels, labels = arrays.pop("val_images"), arrays.pop("val_labels")
    other = name.replace("images", "labels").replace("x_", "y_")
    np.savez(tmp_path / "a.npz", **arrays, **{name: pixels, other: labels})
    test = images.load(f"npz:{tmp_path / 'a.npz'}").test
    np.testing.assert_array_equal(test.images[..., 0], pixels)
    np.testing.assert_array_equal(test.labels, labels[:, 0])


@pytest.mark.parametrize(
    "shape, words",
    [
        ((28, 28, 28), "volumes of 28 x 28 x 28"),
        ((28, 28, 28, 1), "needed is [N, H, W, C]"),
        ((3, 28, 28), "are the 3 channels first?"),
        ((1, 28, 28), "are the 1 channels first?"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path, shape, words):
    parts = {
        f"{part}_images": np.zeros((n, *shape), np.uint8) for part, n in (("train", 8), ("test", 6))
    }
    np.savez(tmp_path / "a.npz", **medmnist(**parts, val_images=None, val_labels=None))
    with pytest.raises(ValueError) as error:
        images.load(f"npz:{tmp_path / 'a.npz'}")
    assert_one_line(error, words, "a.npz")


def test_several_labels_an_image_are_refused(tmp_path):
    """As in MedMNIST's ChestMNIST."""
    several = {
        f"{part}_labels": np.zeros((n, 14), np.uint8) for part, n in (("train", 8), ("test", 6))
    }
    np.savez(tmp_path / "a.npz", **medmnist(**several, val_images=None, val_labels=None))
    with pytest.raises(ValueError) as error:
        images.load(f"npz:{tmp_path / 'a.npz'}")
    assert_one_line(error, "(8, 14)", "needed are integers [N]")


def test_pictures_of_many_channels_are_taken(tmp_path):
    """A satellite's pictures have 13."""
    parts = {
        f"{part}_images": np.zeros((n, 16, 16, 13), np.uint8)
        for part, n in (("train", 8), ("test", 6))
    }
    np.savez(tmp_path / "a.npz", **medmnist(**parts, val_images=None, val_labels=None))
    assert images.load(f"npz:{tmp_path / 'a.npz'}").image_shape == (16, 16, 13)


def test_npz_of_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        images.load(f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(ValueError, match="/dev/zero is no regular file"):
        images.load("npz:/dev/zero")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        images.load(f"npz:{tmp_path}")
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "one.npy"):
        with pytest.raises(ValueError) as error:
            images.load(f"npz:{tmp_path / name}")
        assert_one_line(error, name)


@pytest.mark.parametrize("counts", [(30, 30), (58, 2), (2, 2, 2), (2, 1, 40), (3, 3, 2, 90)])
def test_both_halves_of_a_sorted_npz_have_every_class(tmp_path, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.broadcast_to(labels[:, None, None].astype(np.uint8), (len(labels), 2, 2))
    every = np.arange(len(counts))
    np.savez(
        tmp_path / "a.npz",
        images_train=pixels,
        labels_train=labels,
        images_test=np.zeros((len(counts), 2, 2), np.uint8),
        labels_test=every,
    )
    data = images.load(f"npz:{tmp_path / 'a.npz'}")
    several = {label for label, count in enumerate(counts) if count > 1}
    for part in images.split(data.train, 0.5):
        assert several <= set(part.labels.tolist())
    np.testing.assert_array_equal(data.train.images[:, 0, 0, 0], data.train.labels)
    np.testing.assert_array_equal(np.bincount(data.train.labels), counts)
    np.testing.assert_array_equal(data.test.labels, every)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([1, 2, 3, 1, 2, 3]), ("0 do not occur", "start at 1")),
        (np.array([0, 1, 2, 0, 2**32 + 1, 2]), ("4294967297",)),
        (np.array([0, 1, 2, 0, 2**63 + 1, 2], np.uint64), ("9223372036854775809",)),
        (np.array([0, 1, 2, 0, 9, 2]), ("reach 9", "4, 5, 6, 7, 8 do not occur")),
        (np.array([0, 1, 2, 0, 2**31 - 2, 2]), ("2147483646", "and 214748")),
        (np.array([0.0, 1, 2, 0, 1, 2]), ("float64", "integers")),
        (np.array([0, 1, 2, 0, 1, 2], bool), ("bool", "integers")),
        (np.array(["0", "1", "2", "0", "1", "2"]), ("<U1", "integers")),
    ],
)
def test_npz_labels_that_number_no_classes(tmp_path, labels, words):
    np.savez(tmp_path / "a.npz", **npz_arrays(labels_train=labels))
    with pytest.raises(ValueError) as error:
        images.load(f"npz:{tmp_path / 'a.npz'}")
    assert_one_line(error, str(tmp_path / "a.npz"), *words)


# ------------------------------------------------------------------------------------------- folder


def write_pictures(folder, count, shape=(4, 5, 3), suffix="png"):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    arrays = random_images(count, *shape)
    for i, array in enumerate(arrays):
        Image.fromarray(array.squeeze(-1) if shape[-1] == 1 else array).save(
            folder / f"{i:03d}.{suffix}"
        )
    return arrays


def pairs(part):
    return sorted((image.tobytes(), int(label)) for image, label in zip(*part, strict=True))


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_folder_with_parts(tmp_path, held_out):
    pytest.importorskip("PIL")
    train = {name: write_pictures(tmp_path / "train" / name, 20) for name in ("cat", "ant", "bee")}
    test = write_pictures(tmp_path / held_out / "bee", 3)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    with pytest.warns(UserWarning, match=r"an entry that is no file .*, such as .*notes\.txt"):
        data, again = images.load(f"folder:{tmp_path}"), images.load(f"folder:{tmp_path}")
    assert data.class_names == ("ant", "bee", "cat")
    expected = [
        (image.tobytes(), i) for i, name in enumerate(data.class_names) for image in train[name]
    ]
    assert pairs(data.train) == sorted(expected)
    assert pairs(data.test) == sorted((image.tobytes(), 1) for image in test)
    np.testing.assert_array_equal(data.train.labels, again.train.labels)
    assert all(set(part.labels) == {0, 1, 2} for part in images.split(data.train, 0.5))


def test_folder_without_parts_is_split(tmp_path):
    pytest.importorskip("PIL")
    written = {name: write_pictures(tmp_path / name, 10, (4, 5, 1), "bmp") for name in ("a", "b")}
    data = images.load(f"folder:{tmp_path}")
    assert data.train.images.shape == (16, 4, 5, 1) and data.test.images.shape == (4, 4, 5, 1)
    expected = sorted(
        (image.tobytes(), i) for i, name in enumerate("ab") for image in written[name]
    )
    assert sorted(pairs(data.train) + pairs(data.test)) == expected


def test_folder_mixes_grey_and_colour(tmp_path):
    pytest.importorskip("PIL")
    grey = write_pictures(tmp_path / "a", 5, (4, 5, 1))
    write_pictures(tmp_path / "b", 5)
    data = images.load(f"folder:{tmp_path}")
    part, row = next(
        (p, i) for p in (data.train, data.test) for i, label in enumerate(p.labels) if label == 0
    )
    assert any(np.array_equal(part.images[row], np.repeat(image, 3, -1)) for image in grey)


def test_folder_errors(tmp_path):
    pytest.importorskip("PIL")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        images.load(f"folder:{tmp_path / 'none'}")
    with pytest.raises(FileNotFoundError, match="0 training and 0 test images"):
        images.load(f"folder:{tmp_path}")
    write_pictures(tmp_path / "train" / "a", 4)
    with pytest.raises(FileNotFoundError, match="has only train"):
        images.load(f"folder:{tmp_path}")
    write_pictures(tmp_path / "test" / "b", 1)
    with pytest.raises(ValueError, match=r"b is a class that .*train lacks"):
        images.load(f"folder:{tmp_path}")
    shutil.rmtree(tmp_path / "test" / "b")
    write_pictures(tmp_path / "test" / "a", 1, (4, 6, 3))
    with pytest.raises(ValueError) as error:
        images.load(f"folder:{tmp_path}")
    assert_one_line(error, str(tmp_path / "test" / "a" / "000.png"), "6 x 4", "5 x 4")
    (tmp_path / "test" / "a" / "000.png").write_text("broken")
    with (
        pytest.warns(UserWarning, match=r"000\.png is no readable image"),
        pytest.raises(ValueError, match="no test image is readable"),
    ):
        images.load(f"folder:{tmp_path}")


def test_classes_of_few_pictures_are_in_every_part(tmp_path):
    pytest.importorskip("PIL")
    for name, count in {"a": 12, "b": 2, "c": 1, "d": 3}.items():
        write_pictures(tmp_path / name, count)
    data = images.load(f"folder:{tmp_path}")
    assert set(data.train.labels.tolist()) == {0, 1, 2, 3}
    assert set(data.test.labels.tolist()) == {0, 1, 3}
    assert data.train.num + data.test.num == 18


@pytest.mark.parametrize("parts", [True, False])
def test_a_folder_without_images_is_no_class(tmp_path, parts):
    pytest.importorskip("PIL")
    root = tmp_path / "train" if parts else tmp_path
    for name in ("a", "b"):
        write_pictures(root / name, 4)
        if parts:
            write_pictures(tmp_path / "test" / name, 4)
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._0.png").write_bytes(b"resource fork")
    with pytest.raises(ValueError) as error:
        images.load(f"folder:{tmp_path}")
    assert_one_line(error, str(root / "__MACOSX"), "no images and 1 other files")


@pytest.mark.parametrize("cut", [0.5, 0.9, 0.02])
def test_a_damaged_picture_is_left_out_and_named(tmp_path, cut):
    pytest.importorskip("PIL")
    written = [write_pictures(tmp_path / name, 4, (24, 24, 3)) for name in ("a", "b")]
    broken = tmp_path / "b" / "002.png"
    content = broken.read_bytes()
    broken.write_bytes(content[: int(cut * len(content))])
    with pytest.warns(UserWarning, match="skipped a file that is no readable image") as warned:
        data = images.load(f"folder:{tmp_path}")
    assert str(broken) in str(warned[0].message) and "\n" not in str(warned[0].message)
    expected = [(image.tobytes(), i) for i, part in enumerate(written) for image in part]
    del expected[4 + 2]
    assert sorted(pairs(data.train) + pairs(data.test)) == sorted(expected)


@pytest.mark.parametrize("number", [1, 2])
def test_a_class_of_broken_pictures_is_refused(tmp_path, number):
    pytest.importorskip("PIL")
    for name in ("a", "b"):
        write_pictures(tmp_path / name, 4)
    for name in "ab"[:number]:
        for path in (tmp_path / name).iterdir():
            path.write_text("broken")
    if number == 2:
        with pytest.raises(ValueError, match="is no readable image"):
            images.load(f"folder:{tmp_path}")
        return
    with pytest.warns(UserWarning, match="skipped 4 files"), pytest.raises(ValueError, match=" a "):
        images.load(f"folder:{tmp_path}")


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    pil = pytest.importorskip("PIL.Image")
    upright = np.zeros((8, 4, 3), np.uint8)
    upright[:4] = 200  # light above
    exif = pil.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    lying = pil.fromarray(np.rot90(upright))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            lying.save(tmp_path / name / f"{i}.png", exif=exif)
            pil.fromarray(upright).save(tmp_path / name / f"u{i}.png")
    data = images.load(f"folder:{tmp_path}")
    assert (data.train.images == upright[None]).all()
    read = pictures.fitted(str(tmp_path / "a" / "0.png"), (8, 4, 3))
    np.testing.assert_array_equal(read, upright)
    assert pictures.fitted(str(tmp_path / "a" / "0.png"), (4, 4, 1)).shape == (4, 4, 1)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "valid"), ("train", "Val")])
def test_other_names_of_the_parts(tmp_path, names):
    pytest.importorskip("PIL")
    for part, count in zip(names, (3, 2)):
        write_pictures(tmp_path / part / "a", count)
    data = images.load(f"folder:{tmp_path}")
    assert (data.train.num, data.test.num) == (3, 2)
    write_pictures(tmp_path / "training2" / "a", 1)
    assert images.load(f"folder:{tmp_path}").train.num == 3  # no name of a part
    if names[0] == "Training":
        write_pictures(tmp_path / "train" / "a", 1)
        with pytest.raises(ValueError, match="have the same meaning"):
            images.load(f"folder:{tmp_path}")


def test_all_classes_take_turns():
    random = np.random.RandomState(0)
    labels = random.choice(3, 200, p=[0.9, 0.08, 0.02]).astype(np.int32)
    order = random.permutation(200)
    chosen = images.balanced(labels, order)
    assert len(chosen) == 200
    assert np.abs(np.bincount(labels[chosen]) - 200 / 3).max() < 1
    for start in range(0, 198, 3):
        assert set(labels[chosen[start : start + 3]]) == {0, 1, 2}
    for label in range(3):
        members = order[labels[order] == label]
        mine = chosen[labels[chosen] == label]
        np.testing.assert_array_equal(mine, np.resize(members, len(mine)))


def test_pictures_of_several_sizes_are_resized_and_cut(tmp_path):
    pil = pytest.importorskip("PIL.Image")
    write_pictures(tmp_path / "a", 4, (24, 20, 3))
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, 12:20] = 200  # all that the central square shows
    for i in range(4):
        pil.fromarray(wide).save(tmp_path / "a" / f"wide{i}.png")
    with pytest.raises(ValueError) as error:
        images.load(f"folder:{tmp_path}")
    assert_one_line(error, "--image_size=N", "20 x 24", "32 x 8")
    data = images.load(f"folder:{tmp_path}", size=8)
    assert data.image_shape == (8, 8, 3)
    every = np.concatenate([data.train.images, data.test.images])
    assert sum((image == 200).all() for image in every) == 4
    with pytest.raises(ValueError, match="a size is for folder:PATH only"):
        images.load("digits", size=8)


# ------------------------------------------------------------------------------------------- arrays


def test_arrays_are_what_an_npz_with_them_is(tmp_path):
    train, test = random_images(12, 4, 5), random_images(6, 4, 5)
    labels = np.arange(12) % 3, np.arange(6) % 3
    np.savez(tmp_path / "a.npz", x_train=train, y_train=labels[0], x_test=test, y_test=labels[1])
    stored = images.load(f"npz:{tmp_path / 'a.npz'}")
    given = images.of_arrays(train, labels[0].tolist(), test, labels[1][:, None])
    for part in ("train", "test"):
        for one, other in zip(getattr(given, part), getattr(stored, part), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal((given.mean, given.std), (stored.mean, stored.std))
    assert given.class_names == stored.class_names == ("0", "1", "2")
    names = {given.name, images.of_arrays(train, labels[0], test, labels[1]).name}
    assert len(names) == 1 and given.name.startswith(images.ARRAYS)
    assert images.of_arrays(255 - train, labels[0], test, labels[1]).name not in names
    named = images.of_arrays(train, labels[0], test, labels[1], ["a", "b", "c"])
    assert named.class_names == ("a", "b", "c") and named.name not in names
    with pytest.raises(ValueError) as error:
        images.load(given.name)
    assert_one_line(error, "call it again with them")


def test_a_fifth_of_the_arrays_is_held_out_without_test_images():
    pixels, labels = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1), np.arange(40) // 10
    dataset = images.of_arrays(pixels, labels)
    train, test = ({int(one) for one in part.images.flat} for part in dataset[1:3])
    assert len(test) == 8 and not train & test and len(train | test) == 40
    again = images.of_arrays(255 - pixels, labels)
    assert {255 - int(one) for one in again.test.images.flat} == test
    for part in (dataset.train, dataset.test):
        assert set(part.labels.tolist()) == {0, 1, 2, 3}
        np.testing.assert_array_equal(part.labels, part.images.reshape(-1) // 10)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"images": np.zeros((4, 2, 2), np.float32)}, "scale those from 0 to 1 by 255 and round"),
        ({"images": np.zeros((4, 2), np.uint8)}, "needed is [N, H, W, C]"),
        ({"images": np.zeros((3, 2, 2), np.uint8)}, "3 train images, but 4 labels"),
        ({"labels": [1, 2, 1, 2]}, "do they start at 1?"),
        ({"labels": [0.0, 1.0, 0.0, 1.0]}, "needed are integers"),
        ({"class_names": ("a",)}, "1 class names, but 2 classes"),
        ({"test_images": np.zeros((4, 2, 2), np.uint8)}, "come together"),
        ({"test_images": np.zeros((1, 2, 3), np.uint8), "test_labels": [0]}, "but test images"),
        ({"images": np.zeros((1, 2, 2), np.uint8), "labels": [0]}, "too few to hold a fifth out"),
    ],
)
def test_wrong_arrays_are_one_line(changes, words):
    arguments = {"images": np.zeros((4, 2, 2), np.uint8), "labels": [0, 1, 0, 1]}
    with pytest.raises(ValueError) as error:
        images.of_arrays(**arguments | changes)
    assert_one_line(error, words)

"""Augmentation against a loop over examples in NumPy, and the independence of examples from their
batch.
"""

import colorsys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdarts.data import augment

SHAPE = (12, 7, 5, 3)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(
        np.random.RandomState(0).randint(1, 256, SHAPE, np.uint8)
    )  # no zeros: padding stays visible


def keys(seed, size):
    return augment.example_keys(jax.random.key(seed), jnp.arange(size))


def windows(image, padding, flip):
    """Every image that the transformation may produce, by (top, left, flipped)."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width, _ = image.shape
    return {
        (top, left, mirror): padded[top : top + height, left : left + width][
            :, :: -1 if mirror else 1
        ]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        for mirror in ((False, True) if flip else (False,))
    }


def test_example_keys_are_a_function_of_the_index_alone():
    key = jax.random.key(3)
    some, all_of_them = augment.example_keys(key, jnp.array([4, 1])), keys(3, 6)
    chex.assert_trees_all_equal(
        jax.random.key_data(some), jax.random.key_data(all_of_them[jnp.array([4, 1])])
    )
    assert len(np.unique(jax.random.key_data(all_of_them), axis=0)) == 6
    chex.assert_trees_all_equal(
        jax.random.key_data(some[0]), jax.random.key_data(jax.random.fold_in(key, 4))
    )


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (2, False), (4, True)])
def test_crop_and_flip_yields_windows_of_the_padded_image(images, padding, flip):
    out = augment.crop_and_flip(keys(0, len(images)), images, padding, flip)
    chex.assert_shape(out, SHAPE)
    assert out.dtype == jnp.uint8
    for before, after in zip(np.asarray(images), np.asarray(out), strict=True):
        assert (
            sum(np.array_equal(window, after) for window in windows(before, padding, flip).values())
            == 1
        )


def test_crop_and_flip_reaches_every_window_equally_often():
    image = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)
    repeats = 1800
    batch = jnp.broadcast_to(jnp.asarray(image), (repeats, 3, 3, 1))
    out = np.asarray(augment.crop_and_flip(keys(1, repeats), batch, 1, True))
    counts = [sum(np.array_equal(w, o) for o in out) for w in windows(image, 1, True).values()]
    assert len(counts) == 18 and sum(counts) == repeats
    assert min(counts) > 60 and max(counts) < 140  # 100 +- 4 standard deviations


def test_flip_leaves_the_shift_alone(images):
    plain, flipped = (
        augment.crop_and_flip(keys(2, len(images)), images, 2, flip) for flip in (False, True)
    )
    same = [bool((a == b).all()) for a, b in zip(plain, flipped, strict=True)]
    mirrored = [bool((a == b[:, ::-1]).all()) for a, b in zip(plain, flipped, strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True)) and any(same) and any(mirrored)


def test_normalize(images):
    mean, std = np.array([0.1, 0.5, 0.9], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
    out = augment.normalize(images, mean, std)
    chex.assert_type(out, jnp.float32)
    chex.assert_trees_all_close(
        out, (np.asarray(images) / 255.0 - mean) / std, rtol=1e-5, atol=1e-6
    )


def jittered(image, factors, order):
    """ColorJitter's definition, pixel by pixel where the hue is concerned."""
    for kind in order:
        grey = image @ np.array([0.299, 0.587, 0.114])
        if kind == 3:
            flat = []
            for pixel in image.reshape(-1, 3):
                hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
                flat.append(colorsys.hsv_to_rgb((hue + factors[3]) % 1, saturation, value))
            image = np.array(flat).reshape(image.shape)
        else:
            other = (0, grey.mean(), grey[..., None])[kind]
            image = np.clip(factors[kind] * image + (1 - factors[kind]) * other, 0, 1)
    return image


@pytest.mark.parametrize("jitter", [augment.Jitter(), augment.Jitter(1.5, 0, 0.2, 0.5)])
def test_color_jitter_is_its_definition(images, jitter):
    pixels = np.asarray(images) / 255.0
    pixels[0] = pixels[0, 0, 0, 0]  # one grey image, whose hue is undefined
    pixels[1, ..., 2] = pixels[1, ..., 0]  # two channels may share the largest value
    out = jax.jit(augment.color_jitter, static_argnums=2)(
        keys(4, len(images)), jnp.asarray(pixels, jnp.float32), jitter
    )
    chex.assert_type(out, jnp.float32)
    orders = set()
    for key, before, after in zip(keys(4, len(images)), pixels, out, strict=True):
        draws = np.asarray(jax.random.uniform(key, (2, 4)))
        order = tuple(np.argsort(draws[1]))
        low = [max(0, 1 - value) for value in jitter[:3]] + [-jitter.hue]
        high = [1 + value for value in jitter[:3]] + [jitter.hue]
        np.testing.assert_allclose(
            after, jittered(before, low + (np.array(high) - low) * draws[0], order), atol=2e-5
        )
        orders.add(order)
    assert len(orders) > 6


def test_no_jitter_changes_nothing(images):
    pixels = images.astype(jnp.float32) / 255
    out = augment.color_jitter(keys(0, len(images)), pixels, augment.Jitter(0, 0, 0, 0))
    chex.assert_trees_all_close(out, pixels, atol=1e-6)


def test_a_batch_read_ahead_is_transformed_as_one_on_the_device(images):
    part = {"image": images, "label": jnp.arange(len(images))}
    indices, key = jnp.array([7, 2, 2]), jax.random.key(1)
    options = dict(padding=1, flip=True, cutout_length=2, jitter=augment.Jitter())
    read, apply = (
        make(np.zeros(3), np.ones(3), **options) for make in (augment.reader, augment.transform)
    )
    batch = {name: field[indices] for name, field in part.items()}
    for given in (key, None):
        chex.assert_trees_all_equal(read(part, indices, given), apply(batch, indices, given))


@pytest.mark.parametrize("length", [0, 4, 5, 40])
def test_cutout_erases_one_clipped_square(images, length):
    _, height, width, _ = SHAPE
    floats = images.astype(jnp.float32)
    out = np.asarray(augment.cutout(keys(0, len(images)), floats, length))
    half = length // 2
    boxes = {
        (row, column): (
            max(row - half, 0),
            min(row + half, height),
            max(column - half, 0),
            min(column + half, width),
        )
        for row in range(height)
        for column in range(width)
    }
    for before, after in zip(np.asarray(floats), out, strict=True):
        expected = []
        for top, bottom, left, right in boxes.values():
            erased = before.copy()
            erased[top:bottom, left:right] = 0
            expected.append(erased)
        assert any(np.array_equal(e, after) for e in expected)


def test_cutout_centres_are_uniform_over_the_image():
    size = 2000
    out = np.asarray(augment.cutout(keys(5, size), jnp.ones((size, 4, 5, 1)), 2))
    # The square covers rows and columns [centre - 1, centre + 1): its last row and column tell the
    # centre.
    rows = [np.flatnonzero((o == 0).any((1, 2)))[-1] for o in out]
    columns = [np.flatnonzero((o == 0).any((0, 2)))[-1] for o in out]
    counts = np.histogram2d(rows, columns, bins=(np.arange(5), np.arange(6)))[0]
    assert counts.min() > 60 and counts.max() < 140  # 20 centres, 100 times each


@pytest.mark.parametrize(
    "transform",
    [
        lambda k, x: augment.crop_and_flip(k, x, 2, True),
        lambda k, x: augment.cutout(k, x, 4),
        lambda k, x: augment.color_jitter(k, x / 255, augment.Jitter()),
    ],
    ids=["crop_and_flip", "cutout", "color_jitter"],
)
def test_examples_do_not_depend_on_their_batch(images, transform):
    full_batch = transform(keys(0, len(images)), images)
    indices = jnp.array([9, 2, 4])
    part = jax.jit(transform)(augment.example_keys(jax.random.key(0), indices), images[indices])
    chex.assert_trees_all_close(
        part, full_batch[indices], rtol=0, atol=0 if full_batch.dtype == jnp.uint8 else 1e-6
    )


def test_order_is_a_permutation_per_epoch():
    key = jax.random.key(0)
    first, second = augment.order(key, 0, 101), augment.order(key, 1, 101)
    for permutation in (first, second):
        assert permutation.dtype == jnp.int32
        chex.assert_trees_all_equal(jnp.sort(permutation), jnp.arange(101))
    assert (first != second).any()
    chex.assert_trees_all_equal(
        second, jax.jit(augment.order, static_argnums=2)(key, jnp.int32(1), 101)
    )

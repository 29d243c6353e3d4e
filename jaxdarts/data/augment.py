"""Random transformations of image batches, one random key per example.

Every function takes a whole batch, but what happens to an example depends on nothing except its own
key. The same example is therefore transformed alike in any batch, on any number of devices and on
any host. Keys are consumed: a key that one of these functions has used must not go into another.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32, Key, Shaped, UInt8


def example_keys(key: Key[Array, ""], indices: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Derives one key per example from the example's place in the data set.

    Args:
        key: a key of its own for every epoch (or step) and every kind of transformation.
        indices: each example's index in the data set, not in the batch.

    >>> keys = example_keys(jax.random.key(0), jnp.array([7, 3]))
    >>> bool(keys[0] == jax.random.fold_in(jax.random.key(0), 7))
    True
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


def crop_and_flip(
    keys: Key[Array, " batch"],
    images: UInt8[Array, "batch height width channels"],
    padding: int,
    flip: bool,
) -> UInt8[Array, "batch height width channels"]:
    """Shifts every image by up to `padding` pixels and mirrors half of them.

    The shift is torchvision's `RandomCrop(size, padding)`: a window of the image's own size out of
    the image with `padding` rows and columns of zeros on every side. The zeros are black pixels,
    since normalisation comes later. With `flip`, every image is then mirrored left to right with
    probability one half; the shift does not depend on `flip`.
    """
    _, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # One draw holds both offsets and the coin: every further threefry call costs compile time.
    bounds = jnp.array([2 * padding + 1, 2 * padding + 1, 2], jnp.int32)

    def shift(key: Array, image: Array) -> Array:
        top, left, coin = jax.random.randint(key, (3,), 0, bounds)
        window = lax.dynamic_slice(image, (top, left, 0), (height, width, channels))
        return jnp.where(coin == 1, window[:, ::-1], window) if flip else window

    return jax.vmap(shift)(keys, padded)


def normalize(
    images: UInt8[Array, "batch height width channels"],
    mean: Float[Array | np.ndarray, " channels"],
    std: Float[Array | np.ndarray, " channels"],
) -> Float[Array, "batch height width channels"]:
    """Scales pixels to [0, 1], then subtracts `mean` and divides by `std`."""
    return _standardize(images.astype(jnp.float32) / 255, mean, std)


def _standardize(pixels: Array, mean: Array | np.ndarray, std: Array | np.ndarray) -> Array:
    mean, std = (
        jnp.asarray(constant, jnp.float32).reshape(1, 1, 1, -1) for constant in (mean, std)
    )
    return (pixels - mean) / std


class Jitter(NamedTuple):
    """Ranges of `color_jitter`; the defaults are the published ones for ImageNet.

    Factors of brightness, contrast and saturation are uniform in [max(0, 1 - value), 1 + value],
    the shift of the hue in [-hue, hue], in turns of the colour circle.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.2


def color_jitter(
    keys: Key[Array, " batch"], images: Float[Array, "batch height width 3"], jitter: Jitter
) -> Float[Array, "batch height width 3"]:
    """Changes brightness, contrast, saturation and hue of RGB images in [0, 1].

    The order is drawn for every image.

    These are torchvision's `ColorJitter` transforms: a blend with black, with the mean of the grey
    image, with the grey image (weights 0.299, 0.587, 0.114), each clipped to [0, 1], and a turn of
    the HSV hue. Nothing is rounded to bytes in between.
    """
    changes = jnp.array(jitter, jnp.float32)
    low = jnp.append(jnp.maximum(1 - changes[:3], 0), -changes[3])
    high = jnp.append(1 + changes[:3], changes[3])

    def change(key: Array, image: Array) -> Array:
        draws = jax.random.uniform(key, (2, 4))
        factors = low + (high - low) * draws[0]

        def one(image: Array, kind: Array) -> tuple[Array, None]:
            # Not a product of matrices: accelerators would round its factors.
            grey = 0.299 * image[..., :1] + 0.587 * image[..., 1:2] + 0.114 * image[..., 2:]
            other = jnp.where(kind == 0, 0, jnp.where(kind == 1, jnp.mean(grey), grey))
            blend = jnp.clip(factors[kind] * image + (1 - factors[kind]) * other, 0, 1)
            return jnp.where(kind == 3, turn_hue(image, factors[3]), blend), None

        # A loop compiles the four transforms once, and under vmap a switch would compute all of
        # them anyhow.
        return lax.scan(one, image, jnp.argsort(draws[1]))[0]

    return jax.vmap(change)(keys, images)


def turn_hue(
    image: Float[Array, "height width 3"], turn: Float[Array, ""] | float
) -> Float[Array, "height width 3"]:
    """Adds `turn`, a fraction of the colour circle, to the hue of an RGB image in [0, 1]."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, chroma = jnp.max(image, -1), jnp.max(image, -1) - jnp.min(image, -1)
    safe = jnp.where(chroma == 0, 1, chroma)
    sector = jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sector = (
        jnp.where(value == red, (green - blue) / safe, sector) + 6 * turn
    )  # the hue, in sixths of the circle

    def channel(offset: int) -> Array:
        shifted = (offset + sector) % 6
        return value - chroma * jnp.clip(jnp.minimum(shifted, 4 - shifted), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


def cutout(
    keys: Key[Array, " batch"], images: Shaped[Array, "batch height width channels"], length: int
) -> Shaped[Array, "batch height width channels"]:
    """Sets a square of every image to zero.

    The centre is uniform over the whole image and the square covers `[centre - length // 2, centre
    + length // 2)` in both directions, clipped at the borders, as in the authors' code; so a square
    near a border is smaller, and an odd length covers what the next smaller even one does. Applied
    after normalisation, zero is the mean colour.

    DeVries & Taylor, `Improved Regularization of Convolutional Neural Networks with Cutout
    <https://arxiv.org/abs/1708.04552>`_, 2017.
    """
    _, height, width, _ = images.shape
    half = length // 2

    def erase(key: Array, image: Array) -> Array:
        row, column = jax.random.randint(key, (2,), 0, jnp.array([height, width], jnp.int32))
        rows, columns = jnp.arange(height), jnp.arange(width)
        rows = (rows >= row - half) & (rows < row + half)
        columns = (columns >= column - half) & (columns < column + half)
        return jnp.where(rows[:, None, None] & columns[None, :, None], jnp.zeros_like(image), image)

    return jax.vmap(erase)(keys, images)


def order(key: Key[Array, ""], epoch: int | Int[Array, ""], size: int) -> Int32[Array, " size"]:
    """The order in which one epoch visits `size` examples.

    It is a function of the key and the epoch alone.

    A run that is resumed in epoch n sees what an uninterrupted one sees, without replaying epochs 0
    to n - 1.
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(size, dtype=jnp.int32))


def transform(
    mean: Float[Array | np.ndarray, " channels"],
    std: Float[Array | np.ndarray, " channels"],
    *,
    padding: int = 0,
    flip: bool = False,
    cutout_length: int = 0,
    jitter: Jitter | None = None,
) -> Callable[..., dict[str, Array]]:
    """Augmentation and normalisation of a batch of bytes, on the device.

    Returns:
        apply(batch, indices, key=None) -> {"image": normalised float32 images, "label": integers},
        from batch = {"image": uint8 images, "label": integers}. With a key the images are
        transformed first: what happens to one depends on the key and on its own index in the data
        set, not on the device that it lands on.
    """

    def apply(
        batch: Mapping[str, Array], indices: Int[Array, " batch"], key: Key[Array, ""] | None = None
    ) -> dict[str, Array]:
        pixels, labels = batch["image"], batch["label"]
        if key is None:
            return {"image": normalize(pixels, mean, std), "label": labels}
        crop_key, cutout_key, jitter_key = jax.random.split(key, 3)
        pixels = (
            crop_and_flip(example_keys(crop_key, indices), pixels, padding, flip).astype(
                jnp.float32
            )
            / 255
        )
        if jitter is not None:
            pixels = color_jitter(example_keys(jitter_key, indices), pixels, jitter)
        pixels = _standardize(pixels, mean, std)
        if cutout_length:
            pixels = cutout(example_keys(cutout_key, indices), pixels, cutout_length)
        return {"image": pixels, "label": labels}

    return apply


def reader(
    mean: Float[Array | np.ndarray, " channels"],
    std: Float[Array | np.ndarray, " channels"],
    **options: Any,
) -> Callable[..., dict[str, Array]]:
    """Reader of batches from a part of a data set that lies on the device.

    `options` are those of `transform`.

    Returns:
        read(part, indices, key=None), as `transform`'s apply, of the images part = {"image",
        "label"} at `indices`.
    """
    apply = transform(mean, std, **options)

    def read(
        part: Mapping[str, Array], indices: Int[Array, " batch"], key: Key[Array, ""] | None = None
    ) -> dict[str, Array]:
        return apply({name: field[indices] for name, field in part.items()}, indices, key)

    return read

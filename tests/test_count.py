"""Parameters and multiply-adds. Oracle: counts of the original networks at width 36 and 20 cells on
CIFAR-10.
"""

import jax
import jax.numpy as jnp
import pytest

import jaxdarts as jd
from jaxdarts.nn.ops import OPS

# Genotype: parameters, millions of multiply-adds to the digit that is known.
CIFAR = {
    "DARTS_V1": (3_169_414, "501.0"),
    "DARTS_V2": (3_349_342, "528.4"),
    "NASNet": (3_830_950, "603.5"),
    "AmoebaNet": (3_145_078, "488.9"),
    "PC_DARTS_cifar": (3_634_678, "556.7"),
    "PC_DARTS_image": (3_721_510, "570.5"),
    "PDARTS": (3_433_798, "532.2"),
    "DrNAS_cifar10": (4_099_294, "635.1"),
    "DrNAS_imagenet": (4_048_750, "617.9"),
}


def by_name(name):
    published = {
        known.upper(): value
        for known, value in vars(jd.genotypes).items()
        if isinstance(value, jd.Genotype)
    }
    return published[name.upper()]


@pytest.mark.parametrize("name", CIFAR)
def test_published_networks(name):
    genotype = by_name(name)
    missing = {op for op, _ in genotype.normal + genotype.reduce} - set(OPS)
    if missing:
        pytest.skip(f"the library has no {', '.join(missing)} yet")
    params, adds = jd.network_cost(genotype, 36, 20, 10, (32, 32, 3))
    assert (params, f"{adds / 1e6:.1f}") == CIFAR[name]


@pytest.mark.parametrize("width, depth", [(4, 3), (16, 8)])
def test_params_do_not_depend_on_the_image_size(width, depth):
    net = jd.spaces.darts(num_nodes=2).supernet(width, depth, 10)
    assert jd.count_params(net, (8, 8, 3)) == jd.count_params(net, (16, 32, 3)) > 0


def test_colour_costs_the_stem_alone():
    net = jd.spaces.darts(1).supernet(4, 3, 10)
    assert jd.count_params(net, (8, 8, 3)) - jd.count_params(net, (8, 8, 1)) == 2 * 9 * 12


@pytest.mark.parametrize("shape", [(0, 0, 3), (8, 0, 3), (8, 8, 0), (-8, 8, 3)])
def test_images_without_pixels_have_no_cost(shape):
    cells = jd.genotypes.DARTS_V2, jd.genotypes.parse("|nor_conv_3x3~0|")
    for cell in cells:
        with pytest.raises(ValueError, match="height, width and channels must be positive"):
            jd.network_cost(cell, 4, 3, 10, shape)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 0}, "width is 0"),
        ({"depth": -1}, "depth is -1"),
        ({"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_sizes_of_no_network(changes, words):
    sizes = {"width": 4, "depth": 3, "num_classes": 10, "image_shape": (32, 32, 3)}
    for cell in (jd.genotypes.DARTS_V2, jd.genotypes.parse("|skip_connect~0|")):
        with pytest.raises(ValueError, match=words):
            jd.network_cost(cell, **{**sizes, **changes})


@pytest.mark.parametrize("imagenet", [False, True])
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("side", [8, 10, 12, 75, 76, 64, 96])
def test_images_of_a_size_that_no_network_can_halve(side, skips, imagenet):
    op = "skip_connect" if skips else "max_pool_3x3"
    pairs = ((op, 0), ("sep_conv_3x3", 1))
    cell = jd.Genotype(pairs, (2,), pairs, (2,))
    for depth in (3, 4):
        net = jd.spaces.darts().network(cell, 4, depth, 2, imagenet=imagenet)
        arguments = (cell, 4, depth, 2, (side, side, 3), imagenet)
        try:
            jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
        except ValueError:
            with pytest.raises(ValueError, match=r"--image_size=\d+"):
                jd.network_cost(*arguments)
        else:
            jd.network_cost(*arguments)

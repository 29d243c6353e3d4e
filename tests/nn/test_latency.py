"""The parts of a network, and sums of their times. Oracles: sums by hand, and `nn.costs`."""

import math

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.nn import latency
from jaxdarts.nn.costs import multiply_adds
from jaxdarts.nn.latency import Part
from jaxdarts.nn.ops import OPS

OPS_OF_TOY = "none", "skip_connect", "sep_conv_3x3"


def toy():
    return jd.spaces.darts(2, OPS_OF_TOY)


def test_a_network_is_the_sum_of_its_parts_by_hand():
    """Four channels, three cells: a normal one on 8x8 pixels, and two that reduce."""
    space = toy()
    uses = list(latency.uses(space.cells, 4, 3, 10, (8, 8, 3)))
    parts = list(dict.fromkeys(use.part for use in uses))
    nanoseconds = {part: 10**i for i, part in enumerate(parts)}
    costs = latency.costs(space.cells, uses, nanoseconds)

    def at(name, side, channels, stride=1):
        return nanoseconds[Part(name, ((side, side, channels),), channels, stride)]

    image, stem, last = (8, 8, 3), (8, 8, 12), (2, 2, 32)
    normal, reduced = (8, 8, 8), (4, 4, 16)
    fixed = [
        Part("call", (image,), 10),
        Part("stem", (image,), 12),
        Part("cells", (stem, stem), 4, 1, 1, 2),
        Part("cells", (stem, normal), 8, 2, 1, 2),
        Part("cells", (normal, reduced), 16, 2, 1, 2),
        Part("head", (last,), 10),
    ]
    assert costs.fixed == sum(nanoseconds[part] for part in fixed)
    genotype = jd.genotypes.parse(
        "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),"
        " ('sep_conv_3x3', 2)], normal_concat=[2, 3], reduce=[('skip_connect', 0),"
        " ('skip_connect', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], reduce_concat=[2, 3])"
    )
    mix = jd.space.one_hot(space.cells, genotype)
    total = {
        name: int((np.asarray(mix[name], np.int64) * costs.operations[name]).sum()) for name in mix
    }
    assert total["normal"] == at("skip_connect", 8, 4) + 3 * at("sep_conv_3x3", 8, 4)
    assert total["reduce"] == (
        2 * at("skip_connect", 8, 8, 2)
        + at("sep_conv_3x3", 8, 8, 2)
        + at("skip_connect", 4, 8)
        + 2 * at("skip_connect", 4, 16, 2)
        + at("sep_conv_3x3", 4, 16, 2)
        + at("skip_connect", 2, 16)
    )


@pytest.mark.parametrize("imagenet", [False, True])
def test_operations_are_where_the_counts_of_multiply_adds_have_them(imagenet):
    space, shape = jd.spaces.darts(), (224, 160, 3) if imagenet else (32, 48, 3)
    uses = list(latency.uses(space.cells, 8, 11, 10, shape, imagenet))
    counted = {name: np.zeros(choices.shape, np.int64) for name, choices in space.cells.items()}
    for part, place, times in uses:
        if place is not None:
            kind, e, o = place
            pixels = math.prod(-(-side // part.stride) for side in part.reads[0][:2])
            adds = multiply_adds(OPS[part.name], part.channels, part.stride, pixels)
            counted[kind][e, o] += times * adds
    expected = space.costs(8, 11, 10, shape, imagenet)[1].operations
    for name in counted:
        np.testing.assert_array_equal(counted[name], expected[name])
    runs = [use.part.repeats for use in uses if use.part.name == latency.CELLS]
    assert sum(runs) == 11


@pytest.mark.parametrize("imagenet", [False, True])
def test_a_part_is_a_program_that_makes_the_state_the_next_one_reads(imagenet):
    space, shape = jd.spaces.s4(), (64, 32, 3)
    uses = latency.uses(space.cells, 4, 5, 7, shape, imagenet, space.ops or OPS)
    for part in dict.fromkeys(use.part for use in uses if use.part.name != latency.CALL):
        function, inputs = latency.program(part, 2)
        made = jax.eval_shape(function, *inputs).shape
        assert inputs[0].shape[-4:] == (2, *part.reads[0])
        if part.name == latency.HEAD:
            assert made == (2, 7)
            continue
        factor = 8 if part.name == latency.IMAGENET_STEM else part.stride
        height, width = (-(-side // factor) for side in part.reads[-1][:2])
        assert made == (2, height, width, part.channels * part.states)


def test_random_weights_keep_variances_positive():
    shapes = {"a_variance": latency._of_shape((9,)), "mean": latency._of_shape((9,))}
    filled = latency.filled(shapes)
    assert (filled["a_variance"] >= 0.5).all() and (filled["mean"] < 0).any()


def test_what_has_no_two_cells_is_refused():
    with pytest.raises(ValueError, match="a space of the cells cell: latencies are summed up"):
        list(latency.uses(jd.spaces.nasbench201().cells, 4, 3, 10, (8, 8, 3)))


def test_a_missing_time_is_told():
    space = toy()
    uses = list(latency.uses(space.cells, 4, 3, 10, (8, 8, 3)))
    with pytest.raises(KeyError) as caught:
        latency.costs(space.cells, uses, {})
    assert caught.value.args[0] == uses[0].part

"""What every space says of itself. Oracle: the papers' sizes, the built networks' variables."""

import jax
import pytest

import jaxdarts as jd
from jaxdarts.space import of_genotype

# Published sizes of the networks and of the searches' supernets, (channels, cells).
TWO_CELLS = ((36, 20), (16, 8))
SIZES = {
    **dict.fromkeys(("darts", "s1", "s2", "s3", "s4"), TWO_CELLS),
    "nasbench201": ((16, 5), (16, 5)),
    "transnas_micro": ((16, 5), (16, 5)),
    "nats_size": (None, None),
    "nasbench101": ((128, 3), None),
    **{f"nasbench1shot1_s{i}": ((128, 3), (16, 9)) for i in (1, 2, 3)},
    "weight_sharing64": ((16, 4), (16, 4)),
    "darts_rnn": (None, None),
}
NUMBERS = {"nasbench201": 15_625, "transnas_micro": 4_096, "nats_size": 32_768}
NUMBERS["weight_sharing64"] = 64


def test_every_space_has_a_name():
    assert list(jd.spaces.BY_NAME) == list(SIZES)
    tables = [name for name, build in jd.spaces.BY_NAME.items() if build().table]
    assert tables == [name for name in SIZES if name.startswith(("nasbench", "nats", "transnas"))]


@pytest.mark.parametrize("name", SIZES)
def test_a_space_says_what_it_is(name):
    space = jd.spaces.BY_NAME[name]()
    assert (space.name, space.size, space.supernet_size) == (name, *SIZES[name])
    assert space.num_genotypes == NUMBERS.get(name, float("inf"))
    genotype = space.sample(jax.random.key(0))
    assert type(genotype) is space.kind and space.kind in jd.genotypes.KINDS
    assert jd.genotypes.parse(str(genotype), space.ops) == genotype
    assert jd.genotypes.from_json(jd.genotypes.to_json(genotype, space.ops), space.ops) == genotype
    pictures = jd.report.cells.cell(genotype, space.ops)
    assert pictures and all(svg.startswith("<svg") for svg in pictures.values())
    for cell, choices in of_genotype(genotype).items():
        for i, ops in enumerate(choices.ops) if not choices.picks else ():
            assert jd.space.with_operation(genotype, cell, i, ops[0]) == genotype


@pytest.mark.parametrize(
    "name", [name for name, build in jd.spaces.BY_NAME.items() if build().cost]
)
def test_the_cost_is_the_built_networks(name):
    space = jd.spaces.BY_NAME[name]()
    genotype = space.sample(jax.random.key(1))
    size = (4, 3) if space.size else (None, None)
    net = space.network(genotype, *size, num_classes=7)
    assert space.cost(genotype, *size, 7, (32, 32, 3))[0] == jd.count_params(net, (32, 32, 3))
    assert jd.network_cost(genotype, *size, 7, (32, 32, 3)) == space.cost(
        genotype, *size, 7, (32, 32, 3)
    )
    if space.costs:
        for total, costs in zip(
            space.cost(genotype, 4, 3, 7, (32, 32, 3)), space.costs(4, 3, 7, (32, 32, 3))
        ):
            mix = jd.one_hot(space.cells, genotype)
            kept = sum((mix[cell] * costs.operations[cell]).sum() for cell in mix)
            assert total == costs.fixed + int(kept)


@pytest.mark.parametrize("name", ["darts_rnn", "weight_sharing64"])
def test_costs_that_are_not_counted(name):
    space = jd.spaces.BY_NAME[name]()
    with pytest.raises(ValueError, match="are not counted"):
        jd.network_cost(space.sample(jax.random.key(0)), 4, 3, 7, (8, 8, 3), space=space)

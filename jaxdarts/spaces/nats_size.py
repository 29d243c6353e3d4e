"""The size space of NATS-Bench: 8^5 = 32,768 networks of one cell.

The benchmark has trained each of them.
"""

import functools
from collections.abc import Mapping

import numpy as np

from jaxdarts import genotypes
from jaxdarts.data.benchmarks import tabular
from jaxdarts.genotypes import SIZES, SizeGenotype
from jaxdarts.nn import costs
from jaxdarts.nn.benchmarks.nats_size import Network
from jaxdarts.space import Choices, Space, Table, locate, of_genotype, seeded


def nats_size() -> Space:
    """The size space of NATS-Bench.

    Dong, Liu, Musial & Gabrys, `NATS-Bench <https://arxiv.org/abs/2009.00437>`_, TPAMI 2021.

    Five layers, each with one of eight numbers of channels, and one cell for all (`nn.nats_size`).
    There is no weight-sharing network: `supernet` refuses. What searches without one, by mixes of
    one candidate a row, can use the space.

    >>> space = nats_size()
    >>> space.cells["channels"].shape
    (5, 8)
    >>> from jaxdarts import genotypes, count_params
    >>> count_params(space.network(genotypes.parse("8:8:8:8:8")), (32, 32, 3))
    11714
    """
    row = tuple(map(str, SIZES))
    edges = of_genotype(SizeGenotype((SIZES[0],) * 5))["channels"].edges
    cells = {"channels": Choices(edges, (row,) * 5, (5,), num_inputs=1, kept=None)}
    return Space(
        cells=cells,
        supernet=_supernet,
        network=network,
        discretize=_discretize,
        sample=_sample,
        mutate=functools.partial(_mutate, cells),
        name="nats_size",
        title="NATS-Bench's sizes",
        kind=SizeGenotype,
        cost=costs.channels,
        table=Table(tabular.read_sizes, tabular.column),
        num_genotypes=len(SIZES) ** len(edges),
    )


def network(
    genotype: SizeGenotype,
    width: int | None = None,
    depth: int | None = None,
    num_classes: int = 10,
    **options,
) -> Network:
    """The network of a genotype; `options` as of `nn.nats_size.Network`.

    Raises:
        ValueError: if the genotype is not sound, or width or depth are given, which are the
          genotype's own.
    """
    genotypes.check(genotype)
    if width is not None or depth is not None:
        raise ValueError(
            f"width is {width}, depth {depth}: leave them out, the genotype {genotype} says both"
        )
    return Network(genotype.channels, num_classes, **options)


def _supernet(*arguments, **options):
    raise ValueError(
        "the size space of NATS-Bench has no weight-sharing network; random and evolutionary"
        " searches need none"
    )


def _discretize(mix) -> SizeGenotype:
    return _of_picks(np.argmax(np.asarray(mix["channels"]), axis=1))


def _sample(key) -> SizeGenotype:
    return _of_picks(seeded(key).integers(len(SIZES), size=5))


def _mutate(cells: Mapping[str, Choices], key, genotype) -> SizeGenotype:
    """Mutation: another number of channels in one layer.

    Layers and numbers are equally likely, as in the benchmark's evolution.

    Raises:
        ValueError: if the genotype is not of this space.
    """
    picks = np.array([pick for _, pick in locate(cells, genotype)["channels"]])
    rng = seeded(key)
    layer = rng.integers(len(picks))
    picks[layer] = (picks[layer] + rng.integers(1, len(SIZES))) % len(SIZES)  # the other seven
    return _of_picks(picks)


def _of_picks(picks: np.ndarray) -> SizeGenotype:
    return SizeGenotype(tuple(SIZES[pick] for pick in picks))

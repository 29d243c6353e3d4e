"""DARTS' space of recurrent cells."""

import functools

import numpy as np

from jaxdarts import genotypes
from jaxdarts.genotypes import AnyGenotype, RecurrentGenotype
from jaxdarts.nn.rnn import ACTIVATIONS, LanguageModel
from jaxdarts.space import Choices, Space, mutated, of_genotype, random_pairs, seeded, strongest

PRIMITIVES = ("none", "tanh", "relu", "sigmoid", "identity")
"""The candidates in the published order, which is that of the columns of alpha and decides ties."""


def darts_rnn(num_nodes: int = 8, ops: tuple[str, ...] = PRIMITIVES) -> Space:
    """The recurrent space of DARTS.

    Liu, Simonyan & Yang, `DARTS <https://arxiv.org/abs/1806.09055>`_, 2019.

    Every node reads one state before it, the first of which is made of the word and the hidden
    state, and applies one activation. Networks are `supernet(width, vocabulary, ...)` and
    `network(genotype, width, vocabulary, ...)`, further options those of `nn.rnn.LanguageModel`;
    with the published 300, 850 (Penn Treebank) and 700 (WikiText-2) units they have

    >>> from jaxdarts.count import count_params
    >>> space = darts_rnn()
    >>> count_params(space.supernet(300, 10_000))
    4810000
    >>> count_params(space.network(genotypes.RNN_DARTS_V2, 850, 10_000))  # Penn Treebank
    22960000
    >>> count_params(space.network(genotypes.RNN_DARTS_V2, 700, 33_278))  # WikiText-2
    33127878

    Args:
        num_nodes: nodes of the cell, which the output is the mean of; eight have 36 edges.
        ops: candidates on every edge, `none` among them or not.

    Raises:
        ValueError: if there is no node, no candidate but `none`, or an unknown one.
    """
    if num_nodes < 1:
        raise ValueError(f"num_nodes is {num_nodes}: a cell has at least 1 node")
    ops = tuple(ops)
    if (
        len(set(ops)) != len(ops)
        or not set(ops) <= {"none", *ACTIVATIONS}
        or not set(ops) - {"none"}
    ):
        raise ValueError(
            f"ops are {ops}: they must be different ones of none, {', '.join(ACTIVATIONS)}, and"
            " more than none"
        )
    nodes = range(1, num_nodes + 1)
    edges = tuple((source, target) for target in nodes for source in range(target))
    choices = Choices(edges, (ops,) * len(edges), tuple(nodes), num_inputs=1, kept=1)
    return Space(
        cells={"recurrent": choices},
        supernet=functools.partial(LanguageModel, choices, norm=True),
        network=network,
        discretize=functools.partial(_discretize, choices),
        sample=functools.partial(_sample, choices),
        mutate=functools.partial(mutated, {"recurrent": choices}),
        name="darts_rnn",
        title="DARTS' recurrent cells",
        kind=RecurrentGenotype,
    )


def network(genotype: AnyGenotype, width: int, vocabulary: int, **options) -> LanguageModel:
    """The language model of any recurrent genotype, ENAS' too.

    `options` as of `nn.rnn.LanguageModel`.

    Raises:
        ValueError: if the genotype is not a sound recurrent cell.
    """
    genotypes.check(genotype)
    if not isinstance(genotype, RecurrentGenotype):
        raise ValueError(f"a {type(genotype).__name__} is no recurrent cell")
    return LanguageModel(of_genotype(genotype)["recurrent"], width, vocabulary, **options)


def _discretize(choices: Choices, mix) -> RecurrentGenotype:
    return RecurrentGenotype(strongest(np.asarray(mix["recurrent"]), choices), choices.concat)


def _sample(choices: Choices, key) -> RecurrentGenotype:
    return RecurrentGenotype(random_pairs(seeded(key), choices), choices.concat)

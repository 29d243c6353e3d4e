"""The space of a network of your own: every `nn.Choice` in it is a decision."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxdarts.genotypes import ChoiceGenotype
from jaxdarts.nn.choice import CELL, ChoiceNetwork, ChoiceSupernet, OfChoices, places
from jaxdarts.space import Choices, Space, locate, seeded


def of_network(net: Any, *inputs: Any, **options: Any) -> Space:
    """The space of a Flax network with choices (`nn.Choice`).

    Its cell `choices` has an edge for every decision, ordered by the paths of the modules. A
    choice inside a candidate is a decision like the others; where that candidate is not chosen, it
    has no effect. `supernet()` and `network(genotype)` take no sizes; what they return has `init`
    and `apply` like the network itself. The supernet's `apply` takes a mix after the inputs, and a
    random key after it.

    Args:
        net: a Flax linen module; an NNX module as `flax.nnx.bridge.to_linen` makes it one.
        inputs: examples of its arguments, of which only shapes and types are looked at.
        options: keyword arguments of its calls in a search, such as `train=True`.

    Raises:
        ValueError: if the network is none or has no choice, a candidate is none, candidates of a
          choice give outputs of different shapes, or choices of one decision have different
          candidates.

    >>> import flax.linen as nn
    >>> import jax.numpy as jnp
    >>> from jaxdarts.nn import Choice
    >>> net = nn.Sequential([Choice({"narrow": nn.Dense(4), "none": lambda x: x}, "first")])
    >>> space = of_network(net, jnp.zeros((1, 4)))
    >>> space.cells["choices"].names, space.cells["choices"].ops
    (('first',), (('narrow', 'none'),))
    >>> genotype = space.discretize({"choices": jnp.array([[0.2, 0.8]])})
    >>> print(genotype)
    ChoiceGenotype(choices={'first': 'none'})
    >>> space.network(genotype).init(jax.random.key(0), jnp.zeros((1, 4)))
    {}
    """
    if not isinstance(net, nn.Module):
        raise ValueError(
            f"the network is a {type(net).__name__}: a Flax linen module is needed, such as Net()"
            " or flax.nnx.bridge.to_linen(Net) of a class of NNX"
        )
    for value in inputs:
        if isinstance(value, bool | str):
            raise ValueError(
                f"the input {value!r}: only shapes and types of inputs are looked at; give it as a"
                " keyword argument"
            )
    shapes = jax.eval_shape(lambda: inputs)
    every = places(net, *shapes, **options)
    if not every:
        raise ValueError(
            f"{type(net).__name__} has no choice: put jaxdarts.nn.Choice into it, and call it there"
        )
    rows = {place.decision: place.candidates for place in every}
    edges = tuple((i, i + 1) for i in range(len(rows)))
    cells = {
        CELL: Choices(edges, tuple(rows.values()), (len(rows),), 1, kept=None, names=tuple(rows))
    }
    found = OfChoices(net, shapes, every, options)
    return Space(
        cells=cells,
        supernet=functools.partial(_supernet, found),
        network=functools.partial(_network, found, cells),
        discretize=functools.partial(_discretize, cells),
        sample=functools.partial(_sample, cells),
        mutate=functools.partial(_mutate, cells),
        title=f"the choices of {type(net).__name__}",
        kind=ChoiceGenotype,
        num_genotypes=math.prod(map(len, rows.values())),
    )


def _supernet(found: OfChoices) -> ChoiceSupernet:
    return ChoiceSupernet(found.net, found.inputs, found.places, found.options)


def _network(
    found: OfChoices, cells: Mapping[str, Choices], genotype: ChoiceGenotype
) -> ChoiceNetwork:
    """The network of a genotype.

    Raises:
        ValueError: if the genotype is not of this space.
    """
    locate(cells, genotype)
    return ChoiceNetwork(found.net, found.inputs, found.places, found.options, genotype)


def _discretize(cells: Mapping[str, Choices], mix) -> ChoiceGenotype:
    """Keeps the strongest candidate of every decision; of equal ones the first."""
    choices = cells[CELL]
    weights = np.where(choices.where(), np.asarray(mix[CELL]), -np.inf)
    return _genotype(choices, np.argmax(weights, axis=1))


def _sample(cells: Mapping[str, Choices], key) -> ChoiceGenotype:
    choices = cells[CELL]
    return _genotype(choices, seeded(key).integers([len(ops) for ops in choices.ops]))


def _mutate(cells: Mapping[str, Choices], key, genotype) -> ChoiceGenotype:
    """Another candidate of one decision; decisions and candidates are equally likely.

    Raises:
        ValueError: if the genotype is not of this space, or is all of it.
    """
    choices = cells[CELL]
    picks = np.zeros(len(choices.ops), int)
    for row, op in locate(cells, genotype)[CELL]:
        picks[row] = op
    lengths = np.array([len(ops) for ops in choices.ops])
    if not (lengths > 1).any():
        raise ValueError("the space has one genotype only: there is nothing to mutate into")
    rng = seeded(key)
    row = rng.choice(np.flatnonzero(lengths > 1))
    picks[row] = (picks[row] + rng.integers(1, lengths[row])) % lengths[row]
    return _genotype(choices, picks)


def _genotype(choices: Choices, picks: np.ndarray) -> ChoiceGenotype:
    names = choices.names or ()
    return ChoiceGenotype(
        tuple((name, ops[pick]) for name, ops, pick in zip(names, choices.ops, picks))
    )

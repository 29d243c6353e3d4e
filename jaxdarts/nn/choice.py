"""Choices in a network of your own: one of several modules, and the networks that such a one is.

`spaces.of_network` makes a space of a Flax network with such choices.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.core.scope import CollectionFilter, DenyList, union_filters
from jaxtyping import Array, Key

from jaxdarts.genotypes.cells import ChoiceGenotype
from jaxdarts.types import Mix

COLLECTION = "mix"
"""The Flax collection of what each choice computes: a row of the mix, or `Chosen`."""
CELL = "choices"
"""The name of the cell whose edges are the decisions."""

REPEATED = (
    'lies in a module that is repeated: nn.scan needs variable_broadcast="mix" there, nn.vmap'
    ' variable_axes={"mix": None, ...}'
)
"""Of a choice whose row Flax drops or splits."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mark"],
    meta_fields=["decision", "candidates"],
)
@dataclasses.dataclass(frozen=True)
class Open:
    """What a choice leaves in the variables when a network is initialised: it is not decided.

    mark: a scalar. If it has become an array, a lifted transform of Flax has repeated the choice.
    """

    decision: str
    candidates: tuple[str, ...]
    mark: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Chosen:
    """The candidate that a choice computes, and no other."""

    candidate: str


class Choice(nn.Module):
    """One of several modules: a search decides which.

    In a weight-sharing network (`Space.supernet`) its output is the sum of the candidates' outputs,
    each times its weight in the mix. In the network of a genotype (`Space.network`) only the chosen
    candidate is computed and has parameters. The arguments of a call go to the candidates as they
    are.

    Attributes:
        candidates: modules or functions by name, or a sequence of them, whose names are then "0",
          "1", ... All outputs have the same shape.
        decision: its name in genotypes. Choices of one name have the same candidates and are
          decided together. By default the path of the module: a choice has a decision of its own.
    """

    candidates: Mapping[str, Callable] | Sequence[Callable]
    decision: str = ""

    @nn.compact
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        decision = self.decision or "/".join(map(str, self.path))
        candidates = _named(decision, self.candidates)
        if self.has_variable(COLLECTION, "row"):
            row = self.get_variable(COLLECTION, "row")
        elif self.is_mutable_collection(COLLECTION):
            row = Open(decision, tuple(candidates), jnp.zeros(()))
            self.put_variable(COLLECTION, "row", row)
        elif self.is_initializing():
            raise ValueError(f"the choice {decision!r} {REPEATED}")
        else:
            raise ValueError(
                f"the choice {decision!r} is not decided: call the supernet or a network of"
                " jaxdarts.spaces.of_network(net, ...) instead of the network itself, and make the"
                " space with inputs and options that reach this choice"
            )
        if isinstance(row, Chosen):
            return candidates[row.candidate](*arguments, **options)
        outputs = {name: compute(*arguments, **options) for name, compute in candidates.items()}
        _check_shapes(decision, outputs)
        if isinstance(row, Open):
            row = jnp.full(len(candidates), 1 / len(candidates))
        return jax.tree.map(lambda *values: _weighted_sum(row, values), *outputs.values())


def _named(decision: Any, candidates: Any) -> dict[str, Callable]:
    """The candidates by name.

    Raises:
        ValueError: if they cannot be called, or a name is no text.
    """
    if not isinstance(decision, str):
        raise ValueError(f"decision={decision!r}: the name of a decision is a text")
    if not decision:
        raise ValueError(
            "a choice that is no part of a Flax linen module needs a name: decision=..."
        )
    if isinstance(candidates, Sequence) and not isinstance(candidates, str):
        candidates = {str(i): candidate for i, candidate in enumerate(candidates)}
    if not isinstance(candidates, Mapping):
        raise ValueError(
            f"the candidates of the choice {decision!r} are a {_type(candidates)}: a"
            " dictionary or a list of modules and functions is needed"
        )
    if not candidates:
        raise ValueError(f"the choice {decision!r} has no candidates")
    for name, candidate in candidates.items():
        if not isinstance(name, str):
            raise ValueError(
                f"the choice {decision!r} has the candidate {name!r}: its name must be a text,"
                f" {str(name)!r}"
            )
        where = f"the candidate {name!r} of the choice {decision!r} is"
        if isinstance(candidate, type):
            raise ValueError(
                f"{where} a class, {candidate.__name__}: write {candidate.__name__}(...)"
            )
        if isinstance(candidate, nnx.Module):  # a function of constants: nothing would train it
            raise ValueError(
                f"{where} an NNX module, {_type(candidate)}: write"
                f" flax.nnx.bridge.to_linen({_type(candidate)}, ...)"
            )
        if not callable(candidate):
            raise ValueError(
                f"{where} a {_type(candidate)}, neither a module nor a function: lambda x: x"
                " gives the input, jnp.zeros_like zeros"
            )
    return dict(candidates)


def _type(value: Any) -> str:
    return type(value).__name__


def _weighted_sum(row: Array, values: Sequence[Array]) -> Array:
    dtype = jnp.result_type(*values)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(dtype, row.dtype)
    terms = [weight.astype(dtype) * value for weight, value in zip(row, values)]
    total = functools.reduce(jnp.add, terms)
    # A number that is added to all entries of the output (`relax.drawn`).
    return total + row[len(values)].astype(dtype) if len(row) > len(values) else total


def _check_shapes(decision: str, outputs: Mapping[str, Any]) -> None:
    """Refuses candidates whose outputs cannot be added."""
    shapes = {name: jax.tree.map(jnp.shape, output) for name, output in outputs.items()}
    first, *others = shapes.values()
    if any(shape != first for shape in others):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"the candidates of the choice {decision!r} give outputs of different shapes: {listed};"
            " they must be equal"
        )


class Place(NamedTuple):
    """A choice in a network: the path of its module, and what it decides."""

    path: tuple[str, ...]
    decision: str
    candidates: tuple[str, ...]


def places(net: nn.Module, *inputs: Any, **options: Any) -> tuple[Place, ...]:
    """All choices of a network, ordered by the paths of their modules; nothing is computed.

    Raises:
        ValueError: if candidates do not fit, or choices of one decision have different candidates.
    """
    variables = jax.eval_shape(
        lambda key, *inputs: net.init(key, *inputs, **options), jax.random.key(0), *inputs
    )
    every = tuple(_walk(variables.get(COLLECTION, {}), ()))
    by_decision: dict[str, Place] = {}
    for place in every:
        first = by_decision.setdefault(place.decision, place)
        if first.candidates != place.candidates:
            raise ValueError(
                f"two choices share the decision {place.decision!r}, but"
                f" {'/'.join(first.path)} has the candidates {', '.join(first.candidates)}, and"
                f" {'/'.join(place.path)} has {', '.join(place.candidates)}"
            )
    return every


def _walk(tree: Any, path: tuple[str, ...]):
    if isinstance(tree, Open):
        if tree.mark.shape:
            raise ValueError(f"the choice {tree.decision!r} {REPEATED}")
        yield Place(path[:-1], tree.decision, tree.candidates)
    elif isinstance(tree, Mapping):
        for name, branch in tree.items():
            yield from _walk(branch, (*path, name))
    else:
        raise ValueError(
            f"the network has a variable {'/'.join(path)} in the collection {COLLECTION!r}, which"
            " is that of the choices: give its collection another name"
        )


@dataclasses.dataclass(frozen=True)
class OfChoices:
    """A network with choices, and what is known of them.

    net: the user's network, a Flax linen module.
    inputs: shapes and types of its arguments.
    places: its choices.
    options: keyword arguments for `init` and the calls of the supernet, which a call may replace.
    """

    net: nn.Module
    inputs: tuple[Any, ...]
    places: tuple[Place, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def clone(self, **fields: Any) -> Self:
        """The same with another network, whose fields are replaced."""
        return dataclasses.replace(self, net=self.net.clone(**fields))

    def _example(self) -> tuple[Any, ...]:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.inputs)

    def _rows(self, row_of: Callable[[Place], Any]) -> dict[str, Any]:
        """The collection of the choices, with a row for each of them."""
        tree: dict[str, Any] = {}
        for place in self.places:
            branch = tree
            for name in place.path:
                branch = branch.setdefault(name, {})
            branch["row"] = row_of(place)
        return tree

    def _init(self, key: Any, inputs: tuple[Any, ...], options: Mapping[str, Any]):
        variables = self.net.init(key, *inputs, **{**self.options, **options})
        return {name: tree for name, tree in variables.items() if name != COLLECTION}

    def _apply(
        self, rows: Any, variables: Any, inputs: tuple, mutable: CollectionFilter, **options
    ):
        if not isinstance(mutable, bool) or mutable:
            # The rows are arguments, and no part of what a call returns.
            listed = [mutable] if isinstance(mutable, str) else mutable
            mutable = (
                DenyList(COLLECTION)
                if listed is True
                else DenyList(union_filters(listed.deny, COLLECTION))
                if isinstance(listed, DenyList)
                else [name for name in listed if name != COLLECTION]
            )
        return self.net.apply(
            {**variables, COLLECTION: rows},
            *inputs,
            mutable=mutable,
            **options,
        )


class ChoiceSupernet(OfChoices):
    """The weight-sharing network: `apply(variables, *inputs, mix, key)` sums all candidates.

    A key serves all that is random (dropout). `mutable` and other options are those of Flax'
    `apply` and of the network.
    """

    def init(self, key: Key[Array, ""], *inputs: Any, **options: Any) -> dict[str, Any]:
        """First variables: the parameters of all candidates. A mix may follow the inputs."""
        return self._init(key, inputs[: len(self.inputs)], options)

    def apply(
        self,
        variables: Mapping[str, Any],
        *inputs: Any,
        mutable: CollectionFilter = False,
        **options: Any,
    ) -> Any:
        """The output, a sum weighted by the mix, which follows the network's inputs."""
        number = len(self.inputs)
        if not number < len(inputs) <= number + 2:
            raise TypeError(
                f"{len(inputs)} arguments: the network has {number}; the mix follows them, and then"
                " a random key, if anything is random"
            )
        mix, *keys = inputs[number:]
        if keys and keys[0] is not None:
            options = {"rngs": keys[0], **options}
        options = {**self.options, **options}
        rows, columns = self._numbers()
        if not isinstance(mix, Mapping) or CELL not in mix:
            has = f"has {', '.join(mix)}" if isinstance(mix, Mapping) else f"is a {_type(mix)}"
            raise ValueError(
                f"the mix {has}, but a mix of this network is {{{CELL!r}: [decisions,"
                " candidates]}; jaxdarts.one_hot makes one of a genotype"
            )
        mix = {CELL: jnp.asarray(mix[CELL])}
        shape = mix[CELL].shape
        if shape not in ((len(rows), columns), (len(rows), columns + 1)):
            raise ValueError(
                f"a mix of the shape {shape}: the choices of this network need"
                f" {(len(rows), columns)}, a row a decision"
            )

        def row_of(place: Place) -> Array:
            # What stands behind the last candidate of the longest row belongs to every row.
            row = mix[CELL][rows[place.decision]]
            return jnp.concatenate([row[: len(place.candidates)], row[columns:]])

        return self._apply(self._rows(row_of), variables, inputs[:number], mutable, **options)

    def example_mix(self) -> Mix:
        """A mix of the right shape, all zero."""
        rows, columns = self._numbers()
        return {CELL: jnp.zeros((len(rows), columns))}

    def example_inputs(self, image_shape: tuple[int, ...] = ()) -> tuple[Any, ...]:
        """Arguments that `init` takes: zeros of the network's inputs, and a mix."""
        return (*self._example(), self.example_mix())

    def _numbers(self) -> tuple[dict[str, int], int]:
        """The row of every decision, and the length of the longest row."""
        decisions = dict.fromkeys(place.decision for place in self.places)
        longest = max(len(place.candidates) for place in self.places)
        return {decision: i for i, decision in enumerate(decisions)}, longest


@dataclasses.dataclass(frozen=True)
class ChoiceNetwork(OfChoices):
    """The network of a genotype: what is not chosen is neither computed nor has it parameters.

    `init` and `apply` are called as those of the user's own network.
    """

    genotype: ChoiceGenotype = ChoiceGenotype(())

    def init(self, key: Key[Array, ""], *inputs: Any, **options: Any) -> dict[str, Any]:
        """First variables, those of the supernet with the same key where both have them."""
        return self.inherit(self._init(key, inputs, options), *inputs, **options)

    def apply(
        self,
        variables: Mapping[str, Any],
        *inputs: Any,
        mutable: CollectionFilter = False,
        **options: Any,
    ) -> Any:
        """The network's output; arguments as of Flax' `apply`."""
        return self._apply(self._chosen(), variables, inputs, mutable, **options)

    def inherit(self, variables: Mapping[str, Any], *inputs: Any, **options: Any) -> dict[str, Any]:
        """The part of the supernet's variables that this network has: its shared weights.

        `inputs` and options are those of a call, by default the ones that the space was made with.
        """
        inputs, options = inputs or self._example(), {**self.options, **options}

        def made(key):
            return self._apply(self._chosen(), {}, inputs, True, rngs=key, **options)[1]

        shape = jax.eval_shape(made, jax.random.key(0))
        if shape.get("params") and "params" not in variables:
            raise ValueError(
                f"variables of the collections {', '.join(variables) or 'none'}: the shared weights"
                ' are needed as {"params": ...}'
            )
        return {
            name: _part(tree, variables[name], (name,))
            for name, tree in shape.items()
            if name in variables
        }

    def example_inputs(self, image_shape: tuple[int, ...] = ()) -> tuple[Any, ...]:
        """Arguments that `init` takes: zeros."""
        return self._example()

    def _chosen(self) -> dict[str, Any]:
        candidates = dict(self.genotype.choices)
        return self._rows(lambda place: Chosen(candidates[place.decision]))


def _part(shape: Any, tree: Any, path: tuple[str, ...]) -> Any:
    if not isinstance(shape, Mapping):
        return tree
    for name in shape:
        if name not in tree:
            raise ValueError(
                f"the variables have no {'/'.join((*path, name))}: those of this space's supernet"
                " are needed"
            )
    return {name: _part(branch, tree[name], (*path, name)) for name, branch in shape.items()}

"""The words of the library: what travels between its parts, as aliases and protocols."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

Params = PyTree[Float[Array, "..."]]
"""Weights of a network."""

Arch = PyTree[Float[Array, "..."]]
"""Architecture parameters, the papers' alpha: whatever a relaxation turns into a mix."""

Mix = Mapping[str, Float[Array, "edges ops"]]
"""Weight of every operation on every edge, for each cell type of a space."""

EveryMix = Mapping[str, Float[Array, "*cells edges ops"]]
"""A mix, or one for each cell of a kind."""

Batch = PyTree[Array]
Carry = PyTree[Array]
"""What a network hands from one batch to the next: the hidden state of a recurrent one, nothing for
a convolutional one.
"""

Metrics = dict[str, Float[Array, ""]]
Step = Int[Array, ""]
"""Number of weight updates so far; schedules are functions of it."""

Schedule = Callable[[Step], Float[Array, ""] | float]
Penalty = Callable[[Arch, Mix, Step], tuple[Float[Array, ""], Metrics]]
"""(architecture parameters, the mix that they stand for, step) -> what is added to the loss that
the architecture descends, and metrics about it.
"""

Loss = Callable[[Params, Arch], Any]
"""(weights, architecture) -> scalar, or (scalar, auxiliary output) for a hypergradient that is
asked for it by `has_aux`.
"""


class Choices(NamedTuple):
    """The edges of one cell, and the operations that each may have.

    In a cell of a trained network, every edge has one operation.

    edges: (source, target) states, ordered by target; the first states are the cell's inputs.
    ops: the candidate operations of each edge, in the order of its row of mixture weights.
    concat: the states that make up the cell's output.
    num_inputs: the outputs of the two cells before, or of one only.
    kept: edges that a genotype keeps of those that enter a node, with an operation other than
      `none` on each; None where it keeps all of them and `none` is an operation like the others.
    picks: candidates of each row that a genotype keeps together, where that is not one:
      NAS-Bench-1Shot1's rows offer sources (`spaces.nasbench1shot1`).
    names: of the edges, where a genotype tells them by name: decisions of a network of your own
      (`spaces.of_network`).
    """

    edges: tuple[tuple[int, int], ...]
    ops: tuple[tuple[str, ...], ...]
    concat: tuple[int, ...]
    num_inputs: int = 2
    kept: int | None = 2
    picks: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None

    @property
    def keys(self) -> tuple[Any, ...]:
        """What tells each edge in a genotype: its name where it has one, else the edge."""
        return self.edges if self.names is None else self.names

    @property
    def num_nodes(self) -> int:
        """Number of nodes, the states that are no inputs."""
        return max(target for _, target in self.edges) + 1 - self.num_inputs

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the cell's mix.

        Edges with fewer candidates than others leave the end of their row unused.
        """
        return len(self.edges), max(map(len, self.ops))

    def where(self, test: Callable[[str], bool] = lambda op: True) -> Bool[np.ndarray, "edges ops"]:
        """Mask of the mix: true for operations that pass a test.

        It is false at the unused end of a row.
        """
        return np.array(
            [[o < len(ops) and test(ops[o]) for o in range(self.shape[1])] for ops in self.ops]
        )

    def derivable(self) -> Bool[np.ndarray, "edges ops"]:
        """Mask of the mix: true for operations that a genotype may keep."""
        return self.where(lambda op: op != "none" or self.kept is None)

    def entering(self) -> dict[int, list[int]]:
        """The edges that enter each node."""
        nodes = sorted({target for _, target in self.edges})
        return {
            node: [e for e, (_, target) in enumerate(self.edges) if target == node]
            for node in nodes
        }


class Trial(NamedTuple):
    """One evaluation of a discrete architecture.

    genotype: what was evaluated.
    value: what a search may see and wants large, such as a validation accuracy after a short
    training, in percent. final: what is only reported, such as the test accuracy after the whole
    training, in percent; NaN where it is not known. seconds: what the evaluation costs of a budget
    of time, measured or simulated. epochs: length of the training, where the search asked for one
    (`discrete.Longer`).
    """

    genotype: Any
    value: float
    final: float
    seconds: float
    epochs: int | None = None


class Units(NamedTuple):
    """Rectified units, for scores that look at which of them are on.

    on: [layers, batch, ...], layers of one shape.
    count: [layers], how often each layer counts.
    """

    on: Bool[Array, "layers batch *unit"]
    count: Float[Array, " layers"]


WeightStep = Callable[..., Params]
"""The real optimiser: the gradients of one step (or of several, in order) -> the weights after it.
"""


@runtime_checkable
class Objective(Protocol):
    """Objective of a network: (weights, mix, ...) -> (loss, (carry, metrics))."""

    def __call__(
        self, params: Params, mix: Mix, carry: Carry, batch: Batch, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, ""], tuple[Carry, Metrics]]: ...


@runtime_checkable
class Hypergradient(Protocol):
    """Gradient of the validation loss with respect to the architecture.

    The weights may depend on the architecture or not.

    With `has_aux` both losses return (scalar, auxiliary output), and the result is (gradient,
    auxiliary output of `val`). Only what draws at random needs the `key`.
    """

    def __call__(
        self,
        train: Loss,
        val: Loss,
        params: Params,
        arch: Arch,
        weight_step: WeightStep,
        *,
        key: Key[Array, ""] | None = None,
        has_aux: bool = False,
    ) -> Any: ...


@runtime_checkable
class Perturbation(Protocol):
    """Moves the mix before a weight step, given the training loss as a function of the mix."""

    def __call__(
        self, mix: Mix, loss: Callable[[Mix], Float[Array, ""]], key: Key[Array, ""], step: Step
    ) -> Mix: ...


@runtime_checkable
class Module(Protocol):
    """Interface of a network; a Flax module has it."""

    def init(self, key: Key[Array, ""], *inputs: Any) -> Mapping[str, Any]: ...

    def apply(self, variables: Mapping[str, Any], *inputs: Any, **options: Any) -> Any: ...

    def clone(self, **fields: Any) -> "Module": ...

    def example_inputs(self, image_shape: tuple[int, ...]) -> tuple[Any, ...]: ...

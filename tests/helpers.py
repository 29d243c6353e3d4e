"""A toy search problem, and a reader of the original implementation's arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts.space import fully_connected

GOLDEN = Path(__file__).parent / "golden"

# Where an operation's weight lies among the modules of the original one (relu, convolution, ...),
# which number their members.
_TORCH_INDEX = {"depthwise0": 1, "pointwise0": 2, "depthwise1": 5, "pointwise1": 6}


class Golden:
    """Arrays of the original implementation, and their weights in this library's layout."""

    def __init__(self, name: str):
        self.arrays = dict(np.load(GOLDEN / f"{name}.npz"))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def matrix(self, *names: str) -> np.ndarray:
        """1x1 convolutions, side by side in their outputs, as one matrix [in, out]."""
        return np.concatenate([self[name] for name in names])[:, :, 0, 0].T

    def weight(self, prefix: str, name: str) -> np.ndarray:
        """One weight of one edge, from the arrays whose names start with `prefix`."""
        if name == "reduce":
            return self.matrix(f"{prefix}conv_1.weight", f"{prefix}conv_2.weight")
        if name in ("row0", "column0"):
            return self[f"{prefix}{1 if name == 'row0' else 2}.weight"].transpose(2, 3, 1, 0)
        array = f"{prefix}op.{_TORCH_INDEX[name]}.weight"
        return (
            self[array][:, 0].transpose(1, 2, 0)
            if name.startswith("depthwise")
            else self.matrix(array)
        )


# A smooth network of mixed operations: all that a search needs of a supernet, compiled in a second.


def toy_cells():
    """Two cell types, of one and two nodes."""
    ops = ("none", "skip_connect", "sep_conv_3x3")
    return {"normal": fully_connected(2, ops), "reduce": fully_connected(1, ops)}


def toy_params(seed: int = 0):
    rng = np.random.default_rng(seed)
    edges = {
        name: 0.5 * rng.standard_normal((choices.shape[0], 4, 4))
        for name, choices in toy_cells().items()
    }
    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), edges | {"head": rng.standard_normal((4, 3))}
    )


def toy_batch(seed: int, size: int = 8):
    rng = np.random.default_rng(seed)
    image = jnp.asarray(rng.standard_normal((size, 4)), jnp.float32)
    return {"image": image, "label": jnp.asarray(rng.integers(0, 3, size), jnp.int32)}


def toy_logits(params, mix, h):
    for name, choices in toy_cells().items():
        states = [h, jnp.sin(h)] + [0.0] * choices.num_nodes
        for e, (source, target) in enumerate(choices.edges):
            x = states[source]
            states[target] += mix[name][e, 1] * x + mix[name][e, 2] * jnp.tanh(x @ params[name][e])
        h = states[-1]
    return h @ params["head"]


def toy_objective(params, mix, carry, batch, key):
    logits = toy_logits(params, mix, batch["image"])
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
    return loss, (carry, {"loss": loss})

"""Several devices and several seeds: `jax.pmap` over the one, `jax.vmap` over the other.

A search state is replicated over the devices and every batch is split over them; the step averages
what it must over `AXIS` (`bilevel_search(..., axis_name=AXIS)` and the network's `axis_name`), so
that D devices compute what one does on the same global batch. Seeds are a leading axis of the
state, inside the devices' axis: pmap of vmap, one program for all.

Devices may be those of several hosts, after `jax.distributed.initialize()`: every host calls the
same functions in the same order, and has its own devices' entries of the leading axis.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jaxtyping import Array

AXIS = "devices"

XLA_FLAGS = (
    "--xla_backend_extra_options=xla_cpu_flatten_after_fusion"
    " --xla_cpu_experimental_ynn_fusion_type=individual_dot"
)
"""Options of XLA for CPUs, for the environment variable XLA_FLAGS before anything is compiled.

A program calls a function many times, and XLA copies it to every caller: with the first option
after its passes, which then see it once, and which cannot fuse what a call keeps apart. On two
cores a second-order search step compiles in a fifth less time, and the steps of a recurrent search,
whose activations are calls, run up to 1.6 times as fast. Other versions of XLA may ignore it. The
second option is that of `compiler_options`, for programs that are compiled without them: jaxlib
0.10.2, the last one for Python 3.11, otherwise gives wrong numbers for some sums over matrix
products (`jax#39103 <https://github.com/jax-ml/jax/issues/39103>`_), and crashes in some sums over
arrays of seven axes (`jax#40412 <https://github.com/jax-ml/jax/issues/40412>`_).
"""


def over_seeds(function: Callable, in_axes: Any = 0) -> Callable:
    """Maps a pure function over a leading axis of seeds."""
    return jax.vmap(function, in_axes=in_axes)


def over_devices(
    function: Callable,
    devices: Sequence[jax.Device],
    donate: tuple[int, ...] = (),
    obtain: "Obtain | None" = None,
) -> "OnDevices":
    """Maps a pure function over a leading axis of devices.

    The arguments in `donate` give their memory to the results. `obtain` may give the executable of
    the first call from elsewhere; by default it is compiled.
    """
    mapped = jax.pmap(function, axis_name=AXIS, devices=devices, donate_argnums=donate)
    options = compiler_options(devices[0].platform)
    return OnDevices(function, mapped, options, tuple(devices), donate, obtain)


def compiler_options(platform: str) -> dict[str, str]:
    """Compiler options of XLA for our programs.

    Pass it to `jax.jit(..., compiler_options=...)` or `lowered.compile(...)`.

    XLA for CPUs drops every `optimization_barrier` before it fuses. A state of a cell has a dozen
    readers, and each would then recompute it, pooling and batch norm included. With that pass
    disabled a supernet's gradient compiles and runs about twice as fast; results are the same. And
    of what it hands to the YNNPACK library we leave the matrix products alone: loading a cached
    program searches the whole of it for every such call, minutes for an unrolled step with its many
    reductions. Vectors may be as wide as the processor has them: at XLA's 256 bits, meant for
    processors that slow down with wider ones, a second-order step with AVX-512 took a tenth longer.
    """
    if platform != "cpu":
        return {}
    return {
        "xla_disable_hlo_passes": "cse_barrier_expander",
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        "xla_cpu_prefer_vector_width": "512",
    }


Obtain = Callable[["OnDevices", Sequence[Any]], Any]
"""(program, arguments) -> its executable for arguments of these shapes."""


class OnDevices:
    """A function over devices, compiled for the shapes of its first call.

    With several hosts it is left to `pmap`, which alone turns each host's entries into one array,
    and takes no options.
    """

    def __init__(
        self,
        function: Callable,
        mapped: Any,
        options: dict[str, str],
        devices: tuple[jax.Device, ...],
        donate: tuple[int, ...],
        obtain: Obtain | None,
    ):
        self.function, self.mapped, self.options = function, mapped, options
        self.devices, self.donate, self.obtain = devices, donate, obtain
        self.compiled = None

    def compile(self, *arguments: Any) -> Any:
        """Compiles without running; arguments may be `jax.ShapeDtypeStruct`s."""
        self.compiled = self.mapped.lower(*arguments).compile(compiler_options=self.options)
        return self.compiled

    def __call__(self, *arguments: Any) -> Any:
        if jax.process_count() > 1:
            return self.mapped(*arguments)
        if self.compiled is None and self.obtain is not None:
            self.compiled = self.obtain(self, arguments)
        return (self.compiled or self.compile(*arguments))(*arguments)


def devices(number: int | None = None) -> list[jax.Device]:
    """The first `number` devices of every host, or all of them, host by host."""
    return [
        device for host in range(jax.process_count()) for device in jax.local_devices(host)[:number]
    ]


def here(parts: Any, devices: Sequence[jax.Device]) -> Any:
    """Entries of this host in a leading axis of devices; all of them where there is one host."""
    local = [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]
    return (
        parts
        if len(local) == len(devices)
        else jax.tree.map(lambda leaf: leaf[local[0] : local[-1] + 1], parts)
    )


def of_first_host(tree: Any) -> Any:
    """The first host's values of a tree of arrays, random keys among them, on every host."""
    if jax.process_count() == 1:
        return tree
    bits = multihost_utils.broadcast_one_to_all(
        jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
    )
    return jax.tree.map(
        lambda x, y: jax.random.wrap_key_data(y, impl=jax.random.key_impl(x)) if is_key(x) else y,
        tree,
        bits,
    )


def is_key(x: Any) -> bool:
    """Whether an array holds random keys."""
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Copies a tree to every device: a new leading axis, one entry a device."""
    return _replicator(tuple(devices))(here(np.arange(len(devices)), devices), tree)


@functools.cache
def _replicator(devices: tuple[jax.Device, ...]) -> Callable:
    """One function for all calls: every new one would be compiled anew and kept for ever."""
    return jax.pmap(lambda _, tree: tree, in_axes=(0, None), devices=devices)


def first(tree: Any) -> Any:
    """The first device's copy of a replicated tree."""
    # Indexing x[0] would gather and slice every leaf; the shard is there already.
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], tree)


def stack(trees: Sequence[Any]) -> Any:
    """Stacks several trees of the same structure, one a seed, along a new leading axis."""
    return jax.tree.map(_stacked, *trees)


def _stacked(*leaves: Any) -> Any:
    if any(is_key(leaf) or isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return jnp.stack(leaves)
    return jax.device_put(np.stack(leaves))  # XLA would compile a program for every shape


def split(batch: Array | np.ndarray, num_devices: int, axis: int = 0) -> Array | np.ndarray:
    """Splits an axis of a batch over the devices, as a new leading axis.

    Raises:
        ValueError: if the batch does not divide evenly; every device must weigh the same in an
          average.
    """
    size = batch.shape[axis]
    if size % num_devices:
        raise ValueError(f"a batch of {size} does not divide over {num_devices} devices")
    parts = batch.reshape(
        *batch.shape[:axis], num_devices, size // num_devices, *batch.shape[axis + 1 :]
    )
    return parts.transpose(axis, *(a for a in range(parts.ndim) if a != axis))


def part(x: Array, axis_name: str | None) -> Array:
    """Inside `pmap`: this device's rows of an array that every device has the whole of.

    They are those that `split` would give out.
    """
    if axis_name is None:
        return x
    size = x.shape[0] // lax.axis_size(axis_name)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis_name) * size, size)


def gather(x: Array, axis_name: str | None) -> Array:
    """Inside `pmap`: the rows of all devices; undoes `part`."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)

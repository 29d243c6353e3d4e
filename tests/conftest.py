"""Settings that must be made before JAX starts, and what several test modules share."""

import itertools
import os
import sys
from pathlib import Path

# The benchmarks are scripts that import one another.
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "benchmarks"))

# Four simulated devices share what cores there are; with fewer threads than devices their
# collectives can wait for ever.
os.environ.setdefault("PJRT_NPROC", "16")
_FLAGS = ["--xla_force_host_platform_device_count=4"]
# Programs are compiled as the scripts do it (`jaxdarts.parallel.XLA_FLAGS`, which can only be
# imported when it is too late).
_OURS = (
    "--xla_backend_extra_options=xla_cpu_flatten_after_fusion",
    "--xla_cpu_experimental_ynn_fusion_type=individual_dot",
)
_FLAGS += [flag for flag in _OURS if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", "")]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
# Most of the suite's time is XLA's. A compiled program is looked up by its text, so a changed
# function is compiled afresh.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxdarts-tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes and types in signatures are checked at run time. Left out: `types` and what names its
# protocols (they are not runtime-checkable), `search` and `analysis.sharing` (JAX rebuilds a
# dataclass with placeholders for arrays), and modules without arrays.
CHECKED = [
    "jaxdarts.nn.primitives.convolution",
    "jaxdarts.nn.primitives.depthwise",
    "jaxdarts.nn.primitives.pooling",
    "jaxdarts.nn.ops",
    "jaxdarts.nn.cell",
    "jaxdarts.nn.cnn",
    "jaxdarts.nn.benchmarks.nasbench101",
    "jaxdarts.nn.benchmarks.nasbench1shot1",
    "jaxdarts.nn.benchmarks.nasbench201",
    "jaxdarts.nn.benchmarks.nats_size",
    "jaxdarts.nn.benchmarks.weight_sharing",
    "jaxdarts.nn.rnn",
    "jaxdarts.analysis.curvature",
    "jaxdarts.analysis.flatness",
    "jaxdarts.analysis.landscape",
    "jaxdarts.analysis.mixture",
    "jaxdarts.analysis.ranking",
    "jaxdarts.analysis.topology",
    "jaxdarts.analysis.variance",
    "jaxdarts.count",
    "jaxdarts.parallel",
    "jaxdarts.relax",
    "jaxdarts.perturb",
    "jaxdarts.space",
    "jaxdarts.spaces",
    "jaxdarts.data",
]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

from jaxdarts.genotypes import TOPOLOGY_OPS, TopologyGenotype  # noqa: E402
from jaxdarts.space import fully_connected  # noqa: E402

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


@pytest.fixture(autouse=True)
def same_cache():
    """A script names its own cache of compiled programs; the suite's is back afterwards."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="session")
def golden():
    """A reader of the files in tests/golden, by name."""
    return Golden


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data sets beside the repository, which a checkout alone does not have."""
    folder = Path(os.environ.get("JAXDARTS_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder} (JAXDARTS_SHARED names another place)")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _forget():
    """Frees a module's compiled programs: those of the whole suite take many gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision, for this test only."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def devices():
    """Four devices."""
    found = jax.local_devices()
    if len(found) < 4:
        pytest.skip(f"{len(found)} devices, 4 needed")
    return found[:4]


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """All cells of NAS-Bench-201, better the more convolutions they have; 30 to 210 simulated
    seconds of training each.
    """
    path = tmp_path_factory.mktemp("table") / "table.csv"
    lines = ["arch_str,cifar10_valid_12,cifar10_valid_200,cifar10_test_200,train_seconds_200,convs"]
    for ops in itertools.product(TOPOLOGY_OPS, repeat=6):
        convs = sum(op.startswith("nor") for op in ops)
        value = 60 + 4 * convs + ops.count("skip_connect")
        cell = TopologyGenotype(tuple(zip(ops, (0, 0, 1, 0, 1, 2))))
        lines.append(f"{cell},{value},{value + 1},{value + 2},{500 * convs + 500},{convs}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


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


def toy_objective(params, mix, carry, batch, key):
    h = batch["image"]
    for name, choices in toy_cells().items():
        states = [h, jnp.sin(h)] + [0.0] * choices.num_nodes
        for e, (source, target) in enumerate(choices.edges):
            x = states[source]
            states[target] += mix[name][e, 1] * x + mix[name][e, 2] * jnp.tanh(x @ params[name][e])
        h = states[-1]
    logits = h @ params["head"]
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
    return loss, (carry, {"loss": loss})

"""Settings that must be made before JAX starts, and the fixtures of the suite."""

import gc
import itertools
import os
import sys
from importlib import metadata
from pathlib import Path

# The benchmarks are scripts that import one another.
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "benchmarks"))

# Four simulated devices share what cores there are; with fewer threads than devices their
# collectives can wait for ever.
os.environ.setdefault("PJRT_NPROC", "16")
_FLAGS = ["--xla_force_host_platform_device_count=4"]
# Programs are compiled with the options of the scripts (`jaxdarts.parallel.XLA_FLAGS`, which can
# only be imported when it is too late), and two to seven times as fast: without LLVM optimisations,
# and with XLA's older way to write the loops of a fusion. What they compute stays, up to rounding.
# An option that XLA_FLAGS names already holds, such as --xla_backend_optimization_level=3.
_OURS = (
    "--xla_backend_extra_options=xla_cpu_flatten_after_fusion",
    "--xla_cpu_experimental_ynn_fusion_type=individual_dot",
    "--xla_backend_optimization_level=0",
)
if metadata.version("jaxlib").startswith("0.10."):  # a later one ends the process at this name
    _OURS += ("--xla_cpu_use_fusion_emitters=false",)
_FLAGS += [flag for flag in _OURS if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", "")]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
# Most of the suite's time is XLA's. A compiled program is looked up by its text, so a changed
# function is compiled afresh.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxdarts-tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes and types in signatures are checked at run time. Left out: `types` and what names its
# protocols (they are not runtime-checkable), `bilevel` and `analysis.sharing` (JAX rebuilds a
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
from jaxdarts.runs.executables import SWITCH  # noqa: E402
from tests.helpers import Golden  # noqa: E402

# With several workers the last module decides when a run ends: the dearest ones come first.
DEAREST = [
    "commands/test_methods.py",
    "test_algorithms.py",
    "commands/test_texts.py",
    "commands/test_search.py",
    "commands/test_evaluate.py",
    "test_bfloat16.py",
    "nn/benchmarks/test_nasbench201.py",
    "commands/test_evaluators.py",
    "test_objectives.py",
    "nn/test_network.py",
    "benchmarks/test_device.py",
    "nn/benchmarks/test_picked.py",
    "proxies/test_scores.py",
    "commands/test_ensemble.py",
    "commands/test_analyze.py",
]


def pytest_configure(config):
    """pytest-xdist keeps that order; by itself it starts with the modules of most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_finish():
    gc.freeze()  # what is imported stays; tracing would walk through it again and again
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(items):
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(DEAREST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def same_cache(monkeypatch):
    """A script names its own cache of compiled programs; the suite's is back afterwards."""
    before = jax.config.jax_compilation_cache_dir
    # A program that keeps its executables says so for its process, which here is the suite's.
    monkeypatch.setenv(SWITCH, "")
    monkeypatch.delenv(SWITCH)
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
    present = jax.local_devices()
    if len(present) < 4:
        pytest.skip(f"{len(present)} devices, 4 needed")
    return present[:4]


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

"""Hundreds of bad command lines: each ends in one line, makes nothing, and starts no work.

The lines are drawn from every flag of every command, with seeds that are fixed. A guard ends a
program where its work would begin. Oracle: the tables below say by hand which odd values a flag may
take; everything else must be refused.
"""

import importlib
import random
import shutil
import types
import typing
from collections.abc import Iterator

import jax
import pytest
from flax import linen as nn
from PIL import Image

from jaxdarts import __main__ as program
from jaxdarts import runs
from jaxdarts.commands import (
    compare,
    convert,
    datasets,
    draw,
    enas,
    export,
    measure,
    nats_to_csv,
    predict,
    score,
)
from jaxdarts.commands.analyze import (
    comparison,
    convergence,
    curvatures,
    perturbation,
    planes,
    ranking,
    subjects,
    tables,
)
from jaxdarts.commands.discrete import command as discrete
from jaxdarts.commands.ensemble import command as ensemble
from jaxdarts.commands.evaluate import recipes, text_recipes
from jaxdarts.commands.search import images, text
from jaxdarts.runs import Stop
from tests.commands.test_export import CELL
from tests.training.test_onnx import saved

COMMANDS: dict[str, type] = {
    "search": images.Config,
    "search --dataset=pydoc": text.Config,
    "evaluate": recipes.Config,
    "evaluate --dataset=pydoc": text_recipes.Config,
    "evaluate --ensemble=DARTS_V1,DARTS_V2": ensemble.Config,
    "discrete --evaluate=proxy --dataset=digits --budget_evaluations=9": discrete.Config,
    "enas": enas.Config,
    "score": score.Config,
    "compare darts --": images.Config,
    "compare darts": compare.Config,
    "convert FILE x.csv": convert.Config,
    "nats_to_csv FOLDER x.csv": nats_to_csv.Config,
    "draw DARTS_V2 --output=cell.svg": draw.Config,
    "export NETWORK": export.Config,
    "predict NETWORK PICTURE.png": predict.Config,
    "measure": measure.Config,
    "analyze topology NETWORK": tables.Topology,
    "analyze mixture NETWORK": tables.Mixture,
    "analyze landscape NETWORK": planes.Plane,
    "analyze variance NETWORK": planes.Variance,
    "analyze curvature NETWORK": curvatures.Curvature,
    "analyze perturbation NETWORK": perturbation.Perturbation,
    "analyze convergence NETWORK": convergence.Convergence,
    "analyze compare NETWORK": comparison.Comparison,
    "analyze ranking": ranking.Config,
}
"""Every command with the words that a line begins with, and its flags."""
NUMBERS = (
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "",
    "ten",
    "0x10",
    "1e3",
    "2.5",
    "9" * 20,
    "2147483647",
)
TEXTS = ("", "\udcff", "a\0b", "/nowhere/at/all", "FILE", "FOLDER", "-1", "nothing", "a\nb")
OTHER = (
    "--=3",
    "--no_such_flag=1",
    "-x",
    "--epochs=3=4",
    "--",
    "--help=3",
    "extra",
    "--seed --seed=1",
)


ZERO = set(
    """adanet_beta adanet_lambda adapt_weight_decay alpha arch_beta1 arch_beta2 arch_learning_rate
    arch_warmup arch_weight_decay auxiliary_skip auxiliary_weight balance baseline_decay batches
    beta checkpoint_freq cosine_epochs cost_weight crop_padding cutout_length derive_batches
    deviation distance drop_path_prob drop_path_start dropout
    dropoute dropouth dropouti dropoutx ema_decay eigenvalue_freq
    entropy_weight epsilon_alpha epsilons
    fork_epoch front instances keep_checkpoints label_smooth lambda_valid
    agreement alignment_weight beta_weight
    last_steps learning_rate_min log_cost_weight max_seq_len_delta max_skips max_steps momentum
    neighbours networks policy_beta1 policy_steps prefixes radius random_cells random_fraction
    ranked_cells retries
    sample_batches seed size skip_dropout stage
    stage_skip_dropout stop_eigenvalue
    stop_skips stop_start test_images train_images tune_steps weight_decay workers
    zero_one_weight""".split()
)
"""Flags that may be 0."""
COUNTS = set(
    """agreement_batches shapley_orders
    arch_warmup attack_steps batches bptt checkpoint_freq cosine_epochs cutout_length
    derive_batches
    dense_steps
    distance draws emsize eval_freq fork_epoch hidden iterations keep_checkpoints keep_ops
    last_steps
    machines max_seq_len_delta max_skips max_steps neighbours nonmono num_finalists num_samples
    partial
    policy_samples policy_steps population radius_steps ranked_cells report_freq retries runs
    sample_batches
    seed size stage_partial
    stop_size stop_skips stop_start test_images together
    top train_images tune_epochs tune_steps unroll
    unroll_steps""".split()
)
"""Flags that may be 2**31 - 1: the run is long, or the number is cut to what there is."""
AMOUNTS = set(
    """adanet_beta adanet_lambda alpha arch_grad_clip arch_learning_rate arch_weight_decay
    auxiliary_skip
    auxiliary_weight beta budget_seconds cost_target cost_weight dense_learning_rate deviation
    entropy_weight epsilon_alpha grad_clip lambda_valid learning_rate log_cost_weight
    max_latency_ms max_multiply_adds max_parameters policy_epsilon
    policy_grad_clip policy_learning_rate radius span
    alignment_weight beta_weight
    stop_eigenvalue tanh_constant tau_end tau_start temperature temperature_end weight_decay
    widths
    zero_one_weight""".split()
)
"""Flags that may be any positive number, however large: the run ends where a loss is not finite."""
READ_LATER = set(
    "accuracies cache_dir data_dir output page run run_dir score scores table title".split()
)
"""Texts that only some settings read, or that name what is yet to be made."""
NEVER = {
    "cache_dir": {"FILE"},
    "data_dir": {""},
    "output": {"", "FOLDER", "/nowhere/at/all"},
    "page": {"", "FOLDER", "/nowhere/at/all"},
    "run_dir": {"", "FILE"},
}
"""Texts of them that are wrong all the same."""


OF_ANALYSES = {"--attack_steps=0", "--batch_size=0", "--batch_size=2147483647"}
"""Odd words that analyses take: no attack, the batch of the run, and one that no images fill, which
is refused when the run has been read.
"""


def may_be_accepted(word: str, start: str) -> bool:
    """Whether an odd word at the end of a line is right."""
    name, _, value = word.removeprefix("--").partition("=")
    if start.startswith("analyze") and word in OF_ANALYSES:
        return True
    if start.startswith("convert") and name in ("dataset", "prefix"):  # of a file with other keys
        return not {"\udcff", "\0"} & set(value)
    if name in READ_LATER:
        return value not in NEVER.get(name, set()) and not {"\udcff", "\0"} & set(value)
    if name in ("scheduler", "evaluate_command", "") and value == "":
        return True
    if value == "0":
        return name in ZERO
    if value == "2147483647":
        return name in COUNTS | AMOUNTS
    if value in ("inf", "1e400"):
        return name.endswith("grad_clip")
    return value in ("1e3", "2.5", "9" * 20) and name in AMOUNTS


class Accepted(Exception):
    """The program would begin its work."""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The folder of a trained network."""
    return saved(tmp_path_factory.mktemp("network"), CELL, 2, 1, (8, 8, 3))


@pytest.fixture
def guarded(monkeypatch):
    """Ends a program where it would build its network or open its folder."""

    def accept(*arguments, **names):
        raise Accepted

    monkeypatch.setattr(jax, "eval_shape", accept)
    monkeypatch.setattr(nn.Module, "init", accept)
    for module, name in (
        ("jaxdarts.runs.folder", "open_folder"),
        ("jaxdarts.runs", "open_folder"),
        ("jaxdarts.runs", "jitted"),
        ("jaxdarts.parallel", "over_devices"),
        ("jaxdarts.report.export", "save"),
        ("jaxdarts.training.export", "load"),
        ("jaxdarts.training.export", "export"),
    ):
        monkeypatch.setattr(importlib.import_module(module), name, accept)


def drawn(start: str, kind: type, every: int = 1) -> Iterator[list[str]]:
    """Lines of a command: odd values of one flag in `every`, and odd words."""
    types = typing.get_type_hints(kind)
    flags = [name for name, one in runs.declared(kind).items() if not one.positional]
    others = sorted({name for one in COMMANDS.values() for name in runs.declared(one)} - set(flags))
    for name in flags[::every]:
        form, values = str(types[name]), NUMBERS
        if types[name] is bool:
            values = ("maybe", "", "1")
        elif "str" in form or "Literal" in form:
            values = TEXTS
        # A seed for each flag: the values do not change with other flags.
        for value in random.Random(f"{start} {name}").sample(values, min(3, len(values))):
            yield [*start.split(), f"--{name}={value}"]
    for name in random.Random(start).sample(others, min(4, len(others))):
        yield [*start.split(), f"--{name}=3"]
    for words in random.Random(start).sample(OTHER, 4):
        yield [*start.split(), *words.split(" ")]


def run(words: list[str]) -> str:
    """Runs a line as `jaxdarts` does: its error message, or "" where it was accepted."""
    module, _ = program.COMMANDS[words[0]]
    try:
        importlib.import_module(f"jaxdarts.commands.{module}").main(words[1:])
    except Accepted:
        return ""
    except Stop as stop:
        assert stop.code == 2, (words, stop.code, str(stop))
        assert "\n" not in str(stop) and 0 < len(str(stop)) < 1500, words
        return str(stop)
    return "ended"


@pytest.mark.slow
@pytest.mark.parametrize("start", COMMANDS)
def test_every_bad_line_ends_in_one_line(start, network, guarded, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("nothing of use")
    (tmp_path / "FOLDER").mkdir()
    shutil.copytree(network, tmp_path / "NETWORK")
    Image.new("RGB", (8, 8)).save(tmp_path / "PICTURE.png")
    before = sorted(tmp_path.rglob("*"))
    plain, declared = run(start.split()), runs.declared(COMMANDS[start])
    capsys.readouterr()
    lines = list(drawn(start, COMMANDS[start], every=3 if start.endswith("--") else 1))
    assert len(lines) > 10
    accepted = []
    for words in lines:
        # A line that ends as without its last word does not refuse it.
        if run(words) in ("", "ended", plain):
            accepted.append(words[-1])
        assert capsys.readouterr().err == "", words
        assert sorted(tmp_path.rglob("*")) == before, words
    if any(one.positional and name.endswith("s") for name, one in declared.items()):
        accepted = [word for word in accepted if word != "extra"]  # one more run, or picture
    # Where a value is right, its flag belongs into the tables above.
    assert [word for word in accepted if not may_be_accepted(word, start)] == []


def test_there_are_more_than_500_bad_lines():
    lines = [(start, line[-1]) for start, kind in COMMANDS.items() for line in drawn(start, kind)]
    wrong = [word for start, word in lines if not may_be_accepted(word, start)]
    assert len(wrong) > 1000


def test_pictures_larger_than_the_memory_are_one_line(monkeypatch):
    def read(*arguments, size):
        raise MemoryError("Unable to allocate 16.0 PiB")

    monkeypatch.setattr(datasets.images, "load", read)
    config = types.SimpleNamespace(dataset="folder:a", data_dir=None, image_size=999)
    with pytest.raises(Stop, match="give less than --image_size=999") as caught:
        datasets.load(config, read)
    assert "\n" not in str(caught.value)


def test_a_size_is_for_folders():
    config = types.SimpleNamespace(dataset="digits", data_dir=None, image_size=8)
    with pytest.raises(Stop, match="--image_size=8: --dataset=digits is no folder:PATH"):
        datasets.load(config)


def test_an_analysis_needs_a_value_of_each_list():
    for kind, name in ((perturbation.Perturbation, "epsilons"),):
        with pytest.raises(Stop, match=f"--{name}: give one value or more"):
            subjects.parse(kind, ["run", f"--{name}"], "")

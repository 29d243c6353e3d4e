"""The command line of every command: flags, bounds, help, the run to resume, bad lines.

Oracles: tables by hand; the names of free flags are those that run folders were written with.
"""

import contextlib
import dataclasses
import importlib
import json
import re
import typing

import pytest

from jaxdarts import __main__ as program
from jaxdarts import runs
from jaxdarts.commands import (
    command_line,
    compare,
    convert,
    enas,
    flags,
    measure,
    nats_to_csv,
    score,
)
from jaxdarts.commands.analyze import command as analyze
from jaxdarts.commands.analyze import (
    comparison,
    convergence,
    curvatures,
    planes,
    ranking,
    subjects,
    tables,
)
from jaxdarts.commands.discrete import command as discrete
from jaxdarts.commands.ensemble import command as ensemble
from jaxdarts.commands.evaluate import command as evaluate
from jaxdarts.commands.evaluate import recipes, text_recipes
from jaxdarts.commands.search import command as search
from jaxdarts.commands.search import images as image_search
from jaxdarts.commands.search import text as text_search
from jaxdarts.runs import Stop
from jaxdarts.runs.flags import BELOW_ONE, POSITIVE, at_least, declared, flag, wrong

RUNS = {
    "search on images": image_search,
    "search on text": text_search,
    "evaluate on images": recipes,
    "evaluate on text": text_recipes,
    "evaluate of an ensemble": ensemble,
    "enas": enas,
    "analyze ranking": ranking,
    "discrete": discrete,
    "score": score,
}
CONFIGS = [
    *(module.Config for module in RUNS.values()),
    *(
        compare.Config,
        convert.Config,
        nats_to_csv.Config,
        measure.Config,
        planes.Plane,
        planes.Variance,
        curvatures.Curvature,
    ),
    *(convergence.Convergence, comparison.Comparison, tables.Topology, tables.Mixture),
]
LINES = [
    "search",
    "search --dataset=ptb",
    "evaluate",
    "evaluate --dataset=ptb",
    "evaluate --ensemble=DARTS_V1",
    "discrete",
    "enas",
    "score",
    "compare",
    "convert",
    "measure",
    "nats_to_csv",
    *(f"analyze {name}" for name in analyze.COMMANDS),
]


def start(words: list[str]) -> None:
    """A command line, as `jaxdarts` runs it."""
    module, _ = program.COMMANDS[words[0]]
    importlib.import_module(f"jaxdarts.commands.{module}").main(words[1:])


# Declarations


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_number_has_a_bound_and_every_flag_a_text_and_a_topic(kind):
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    for name, one in declared(kind).items():
        number = re.search(r"\b(int|float)\b", types[name]) and "Literal" not in types[name]
        assert (one.bound is not None) == bool(number), name
        assert one.text[0].isupper() or one.text.startswith("sgd"), name
        assert one.text.endswith(".") and "\n" not in one.text and one.topic in flags.TOPICS, name


@pytest.mark.parametrize("module", RUNS.values(), ids=RUNS)
def test_defaults_and_presets_keep_their_bounds(module):
    for config in (module.Config(), *getattr(module, "PRESETS", {}).values()):
        assert wrong(config) is None


def test_names_of_algorithms_are_those_of_the_table():
    types = {field.name: field.type for field in dataclasses.fields(discrete.Config)}
    assert typing.get_args(types["algorithm"]) == tuple(discrete.METHODS)
    assert typing.get_args(types["evaluate"]) == tuple(discrete.evaluators.EVALUATIONS)


SAVING = "max_steps report_freq checkpoint_freq keep_checkpoints tracker"
ALL = "run_dir resume data_dir cache_dir"
TRAINED = f"{ALL} {SAVING} num_devices estimate device"
FREE = {
    "search on images": f"{TRAINED} derive num_samples derive_batches tune_steps max_skips flatness"
    " sample_batches num_finalists shapley_orders ranked_cells coordinator num_hosts host"
    " max_parameters max_multiply_adds max_latency_ms latency_table"
    " front trained_channels trained_layers",
    "search on text": f"{TRAINED} derive num_samples shapley_orders",
    "evaluate on images": f"{TRAINED} random_cells",
    "evaluate on text": f"{TRAINED} random_cells",
    "evaluate of an ensemble": f"{TRAINED} size balance machines mixture adanet_lambda adanet_beta"
    " iterations output",
    "enas": f"{ALL} {SAVING} num_samples",
    "analyze ranking": f"{ALL} output",
    "discrete": f"{ALL} output workers scheduler retries top table evaluate_command evaluate_stays"
    " evaluate_timeout",
    "score": f"{ALL} count table table_columns output rank_sums log_rank_sums swap_mu swap_sigma",
}


@pytest.mark.parametrize("name", RUNS)
def test_what_a_resumed_run_may_change_is_what_older_checkpoints_leave_out(name):
    assert runs.free(RUNS[name].Config) == set(FREE[name].split())


@dataclasses.dataclass(frozen=True)
class First:
    TOPIC: typing.ClassVar[str] = "weights"

    rate: float = flag(1.0, "Text of the first class.", POSITIVE)
    names: tuple[str, ...] = flag((), "Names; default none.")
    layers: tuple[int, ...] = flag((3,), "Layers.", at_least(2), free=True)


@dataclasses.dataclass(frozen=True)
class Second(First):
    TOPIC: typing.ClassVar[str] = "data"

    rate: float = 3.0
    share: float | None = flag(None, "Share; default all.", BELOW_ONE)


def test_a_class_that_inherits_changes_the_default_only(capsys):
    assert command_line.read(Second, ["--rate=4"], Second(), None) == Second(4.0)
    assert declared(Second)["rate"] == declared(First)["rate"] and Second().rate == 3
    assert declared(Second)["rate"].topic == "weights" and declared(Second)["share"].topic == "data"
    with pytest.raises(SystemExit):
        command_line.read(Second, ["--help"], Second(), "A head\non two lines.")
    shown = " ".join(re.sub("[-│─╭╮╰╯]", " ", capsys.readouterr().out).split())
    assert "A head on two lines." in shown and "Text of the first class. (default: 3.0)" in shown
    assert shown.index("data options") < shown.index("weights options")
    assert "default: None" not in shown and "Share; default all. weights" in shown

    @dataclasses.dataclass(frozen=True)
    class Bare:
        rate: float = 1.0

    with pytest.raises(TypeError, match="Bare.rate is not declared"):
        declared(Bare)


@pytest.mark.parametrize(
    "changes, line",
    [
        ({}, None),
        ({"rate": 0.0}, "--rate=0.0: must be positive"),
        ({"rate": float("nan")}, "--rate=nan: must be positive"),
        ({"rate": float("inf")}, "--rate=inf: must be finite"),
        ({"layers": (2, 1)}, "--layers=2 1: must be 2 or more"),
        ({"layers": (2, 2**31)}, "--layers=2 2147483648: must be at most 2147483647"),
        ({"layers": ()}, None),
        ({"share": 1.0}, "--share=1.0: must be at least 0 and below 1"),
        ({"share": -0.0}, None),
        ({"names": ("a", "b\0")}, "--names=a b\0: must be UTF-8 without NUL characters"),
        ({"names": ("\udcff",)}, "--names=\\udcff: must be UTF-8 without NUL characters"),
    ],
)
def test_bounds(changes, line):
    assert wrong(Second(**changes)) == line


# Help


@pytest.mark.parametrize("line", LINES)
def test_help_says_every_default_once(line, capsys):
    with contextlib.suppress(SystemExit):
        start([*line.split(), "--help"])
    shown = capsys.readouterr().out
    command = line.partition(" --")[0].replace("analyze ensemble", "evaluate")
    assert shown.startswith(f"usage: jaxdarts {command} [-h]")
    for bad in ("default: None", "(default: )", ".py ", "default None", "::"):
        assert bad not in shown
    names = re.findall(r"^[│ ]{0,3}(--[a-z]\w*)", shown, re.M)
    assert len(names) == len(set(names)) and len(names) > 0


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_analyses_are_listed(arguments, capsys):
    analyze.main(arguments)
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in analyze.COMMANDS)


def test_the_command_line_is_read_once(monkeypatch):
    import tyro

    calls, cli = [], tyro.cli
    monkeypatch.setattr(tyro, "cli", lambda *a, **b: calls.append(1) or cli(*a, **b))
    cell = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
    for line in (["--dataset=any"], ["--dataset=any", "--arch", cell], ["--select", cell, cell]):
        recipes.parse(line, None)
    ensemble.parse([f"--ensemble={cell}"])
    assert len(calls) == 4


# What a command line is about


@pytest.mark.parametrize(
    "line, kind",
    [
        ("", "images"),
        ("--dataset=cifar10", "images"),
        ("--dataset pydoc", "text"),
        ("--dataset=text:/a", "text"),
        ("--dataset=cifar10 --dataset=ptb", "text"),
        ("--ensemble=a,b", "ensemble"),
        ("--ensemble a", "ensemble"),
        ("--epochs=3 --dataset=npz:text:ptb", "images"),
    ],
)
def test_kinds(line, kind):
    assert command_line.kind_of(command_line.look(line.split()), evaluate.KINDS) == kind


OLD = {
    ("search", "images"): image_search.Config,
    ("search", "text"): text_search.Config,
    ("evaluate", "images"): recipes.Config,
    ("evaluate", "text"): text_recipes.Config,
    ("evaluate", "ensemble"): ensemble.Config,
    ("enas", "images"): enas.Config,
    ("analyze ranking", "images"): ranking.Config,
    ("discrete", "images"): discrete.Config,
    ("score", "images"): score.Config,
}


def folder_of(path, kind: type, **changes) -> str:
    """A run folder with a config.json, as it was before it named its command."""
    path.mkdir(exist_ok=True)
    kept = {
        name: value
        for name, value in dataclasses.asdict(kind()).items()
        if name not in runs.OF_A_START
    }
    (path / "config.json").write_text(json.dumps(kept | changes))
    return str(path)


@pytest.mark.parametrize("origin", OLD)
def test_older_folders_are_told_apart_and_continue(origin, tmp_path):
    kind = OLD[origin]
    folder = folder_of(tmp_path / "run", kind)
    saved = command_line.saved(folder, "--resume")
    assert (saved.command, saved.kind) == origin == runs.origin_of(kind)
    assert command_line.resumed(kind, saved) == kind()
    config, log = runs.open_folder(
        dataclasses.replace(kind(), run_dir=str(tmp_path / "new")), "run"
    )
    runs.writers.close_logger(log)
    written = command_line.saved(str(config), "--resume")
    assert (written.command, written.kind) == origin
    assert {"command", "kind"} <= written.settings.keys()
    assert dataclasses.replace(command_line.resumed(kind, written)) == kind()


COMMAND_LINES = {
    "search": search.main,
    "evaluate": evaluate.main,
    "enas": enas.main,
    "score": score.main,
    "discrete": discrete.main,
    "analyze ranking": ranking.main,
}


@pytest.mark.parametrize("command", COMMAND_LINES)
def test_a_run_of_another_command_names_its_own(command, tmp_path):
    for i, (origin, kind) in enumerate(OLD.items()):
        folder = folder_of(tmp_path / f"a run {i}", kind)
        if origin[0] != command:
            with pytest.raises(Stop) as caught:
                COMMAND_LINES[command]([f"--resume={folder}"])
            matching = f"jaxdarts {origin[0]}"
            assert str(caught.value) == (
                f"--resume={folder}: a run of {matching}; {matching} --resume='{folder}'"
            )
            assert caught.value.code == 2


def test_a_run_of_another_kind_of_task(tmp_path):
    folder = folder_of(tmp_path / "run", text_search.Config)
    for name in ("--run", "--ensemble"):
        with pytest.raises(Stop, match="a run of jaxdarts search on text, not images"):
            command_line.resumed(image_search.Config, command_line.saved(folder, name), name)
    with pytest.raises(Stop, match="jaxdarts evaluate; name one of jaxdarts search"):
        folder = folder_of(tmp_path / "other", recipes.Config)
        command_line.resumed(image_search.Config, command_line.saved(folder, "--run"), "--run")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"epochs": "ten"}, "epochs is 'ten', not an integer"),
        ({"epochs": 2.5}, "epochs is 2.5, not an integer"),
        ({"flip": 1}, "flip is 1, not a boolean"),
        ({"dtype": "float16"}, "dtype is 'float16', not one of 'float32', 'bfloat16'"),
        ({"ops": "none"}, "ops is 'none', not a list"),
        ({"ops": [1]}, "ops[0] is 1, not a text"),
        ({"data_dir": 3}, "data_dir is 3, not a text or null"),
        ({"learning_rate": 1}, None),
        ({"num_devices": None}, None),
        ({"no_such_flag": 1}, "no_such_flag is no flag of jaxdarts search"),
    ],
)
def test_a_config_of_wrong_types_is_one_line(changes, words, tmp_path):
    saved = command_line.saved(folder_of(tmp_path / "run", image_search.Config, **changes), "")
    if words is None:
        assert command_line.resumed(image_search.Config, saved) == image_search.Config(**changes)
        return
    with pytest.raises(Stop, match="no usable .*config.json: ") as caught:
        command_line.resumed(image_search.Config, saved)
    assert words in str(caught.value) and caught.value.code == 2


def test_what_can_be_changed_in_a_fork_says_so(tmp_path):
    folder = folder_of(tmp_path / "a run", image_search.Config)

    def line(*flags):
        with pytest.raises(Stop) as caught:
            image_search.parse([f"--resume={folder}", *flags])
        return str(caught.value)

    assert line("--epochs=3") == (
        f"--resume={folder}: the run has epochs=50, not 3; leave the flag out, or go on from one of"
        f" its epochs in a new run: --fork='{folder}'"
    )
    assert line("--init_channels=3").endswith("not 3; leave the flag out")
    assert image_search.parse([f"--resume={folder}", "--report_freq=3"]).report_freq == 3
    folder = folder_of(tmp_path / "a run", text_search.Config)
    with pytest.raises(Stop, match="not 3; leave the flag out$"):
        text_search.parse([f"--resume={folder}", "--epochs=3"])


# Bad lines

BAD = """
search --epochs=0 | --epochs=0: must be positive
search --epochs=1000001 | --epochs=1000001: must be at most 1000000
search --epochs=ten | --epochs
search --epochs | --epochs
search --no_such_flag=1 | --no_such_flag
search 3 | 3
search --batch_size=0 | --batch_size=0: must be positive
search --batch_size=-3 | --batch_size=-3: must be positive
search --batch_size=99999999999999999999 | must be at most 2147483647
search --learning_rate=nan | --learning_rate=nan: must be positive
search --learning_rate=inf | --learning_rate=inf: must be finite
search --arch_learning_rate=inf | --arch_learning_rate=inf: must be finite
search --momentum=1 | --momentum=1.0: must be at least 0 and below 1
search --keep_checkpoints=-1 | --keep_checkpoints=-1: must not be negative
search --checkpoint_freq=-1 | --checkpoint_freq=-1: must not be negative
search --report_freq=0 | --report_freq=0: must be positive
search --seed=-1 | --seed=-1: must not be negative
search --seed=2147483647 --num_seeds=2 | seeds must be below 2147483648
search --num_seeds=0 | --num_seeds=0: must be positive
search --num_devices=0 | --num_devices=0: must be positive
search --resume= | --resume=: name the folder of the run
search --resume | --resume=: name the folder of the run
search --resume=/nowhere | --resume=/nowhere: not the folder of a run: there is no such folder
search --fork=/nowhere | --fork=/nowhere: not the folder of a search
search --candidates=/nowhere | --candidates=/nowhere: not the folder
search --preset=nothing | --preset=nothing: there are digits
search --algorithm=nothing | 'nothing'
search --space=nothing | 'nothing'
search --num_samples=0 | --num_samples=0: must be positive
search --stop_size 6 -1 | --stop_size
search --max_skips=-1 | --max_skips=-1: must not be negative
search --host=0 | --coordinator
search --coordinator=here --num_hosts=2 --host=0 | must be HOST:PORT
search --coordinator=here:0 --num_hosts=2 --host=0 | here:0: a port is 1 to 65535
search --coordinator=here:99999 --num_hosts=2 --host=0 | here:99999: a port is 1 to 65535
search --dataset=ptb --dropout=1 | --dropout=1.0: must be at least 0 and below 1
search --dataset=ptb --emsize=0 | --emsize=0: must be positive
search --dataset=ptb --keep_checkpoints=-1 | --keep_checkpoints=-1: must not be negative
search --dataset=ptb --alpha=inf | --alpha=inf: must be finite
search --dataset=ptb --space=s1 | --space
evaluate --epochs=-1 | --epochs=-1: must be positive
evaluate --drop_path_prob=nan | --drop_path_prob=nan: must be at least 0 and below 1
evaluate --select_portion=1 | --select_portion=1.0: must lie between 0 and 1
evaluate --decay=inf | --decay=inf: must be finite
evaluate --image_size=0 | --image_size=0: must be positive
evaluate --arch=NOTHING | --arch=NOTHING: no such file
evaluate --arch= | --arch=: must not be empty
evaluate --arch=/dev/zero | /dev/zero is no regular file
evaluate --select DARTS_V2 |nor_conv_3x3~0| | --select
evaluate --test_only | --checkpoint=RUN
evaluate --resume=/nowhere | not the folder of a run
evaluate --dataset=ptb --nonmono=0 | --nonmono=0: must be positive
evaluate --dataset=ptb --batch_size=0 | --batch_size=0: must be positive
evaluate --ensemble=DARTS_V2 --balance=nan | --balance=nan: must lie between 0 and 1
evaluate --ensemble=DARTS_V2 --output=/nowhere/x.json | --output=/nowhere/x.json: must be a file
evaluate --ensemble= | --ensemble: name its members
discrete --budget_evaluations=-1 | --budget_evaluations=-1: must be positive
discrete --budget_seconds=inf | --budget_seconds=inf: must be finite
discrete --workers=-1 | --workers=-1: must not be negative
discrete --lengths 0 2 | --lengths=0 2: must be positive
discrete --table=/nowhere.csv | --table=/nowhere.csv
discrete --evaluate=supernet --run=/nowhere | --run=/nowhere: not the folder of a run
enas --policy_samples=0 | --policy_samples=0: must be positive
enas --keep_checkpoints=-1 | --keep_checkpoints=-1: must not be negative
enas --entropy_weight=nan | --entropy_weight=nan: must not be negative
enas --train_portion=0 | --train_portion=0.0: must be above 0
score --count=0 | --count=0: must be positive
score --scores=none | there is no 'none'
score --scores= | there is no ''
score --output=/nowhere/x.json | --output=/nowhere/x.json: must be a file
compare | name one algorithm
compare -- --epochs=1 | name one algorithm
compare darts darts2 | darts2: no algorithm of jaxdarts search
compare darts -- --run_dir=x | --run_dir: not a flag of one search
compare darts -- --run-dir x | --run_dir: not a flag of one search
compare darts -- --output=x | --output: not a flag of one search
compare darts -- --resume=x | --resume
compare darts -- --epochs=0 | --epochs=0: must be positive
compare darts -- --algorithm=gdas | --algorithm: not a flag of one search
compare darts --epochs=1 | --epochs
convert | name the file
convert /nowhere x.csv | /nowhere: No such file
convert . x.csv | .: not a folder named like
convert . x.csv --dataset=svhn | --dataset=svhn: NATS-Bench has cifar10
convert /nowhere x.csv y | y
score --table_columns=a | --table_columns=a: say which --table has them
nats_to_csv | name the folder
nats_to_csv /nowhere x.csv | /nowhere: not a folder named like
nats_to_csv /nowhere x.csv y | y
nats_to_csv --=3 | --=3: a flag without a name
analyze topology /nowhere --=3 | --=3: a flag without a name
analyze topology /nowhere --each=2147483647 | --each=2147483647: must be at most 10000
analyze compare DARTS_V1 --output= | --output=: must not be empty
draw DARTS_V2 --output=x.svg --curve=loss | --curve=loss: only with --what=curves
draw DARTS_V2 --output=x.svg --what=curves --cell=normal | --cell=normal: only with --what=cell or
predict NETWORK a.png --top=0 | --top=0: must be positive
analyze nothing | nothing: no analysis
analyze topology | name one run folder
analyze topology /nowhere | /nowhere: not the folder of a run: there is no such folder
analyze landscape . | .: not the folder of a run: it has no config.json
analyze landscape seed-3 | seed-3: not the folder of a run
analyze landscape /nowhere --grid=2 | --grid=2: must be 3 or more
analyze landscape /nowhere --span=nan | --span=nan: must be positive
analyze variance /nowhere --together=0 | --together=0: must be positive
analyze curvature /nowhere --probes=0 | --probes=0: must be positive
analyze curvature /nowhere --images=0 | --images=0: must be positive
analyze curvature /nowhere --seed=-1 | --seed=-1: must not be negative
analyze convergence /nowhere --widths nan | --widths=nan: must be positive
analyze mixture /nowhere --of=alpha | --of
analyze compare /nowhere | /nowhere: no such folder
analyze ranking --epochs=0 | --epochs=0: must be positive
analyze ranking --truth_epochs=0 | --truth_epochs=0: must be positive
analyze ranking --groups 0 | --groups=0: must be positive
analyze ranking --train_images=-1 | --train_images=-1: must not be negative
analyze ranking --last_steps=-1 | --last_steps=-1: must not be negative
search --ops nothing none | --ops=nothing none: normal, edge
search --ops | --ops=: normal, edge
search --stop_size | --stop_size: give one value or more
search --fork_epoch=3 | --fork_epoch=3: needs --fork
evaluate --select | --select: give one value or more
evaluate --select --epochs=1 | --select: give one value or more
evaluate --ensemble=DARTS_V1,,DARTS_V2 | a name is missing between commas
compare darts --page=x/ | --page=x/: must be a file
export NETWORK --output=x/ | --output=x/: must be a file
draw DARTS_V2 --output=x.svg/ | --output=x.svg/: must be a file
analyze convergence /nowhere --widths | --widths: give one value or more
analyze ensemble --fit_portion=1 | --fit_portion=1.0: must lie between 0 and 1
"""


@pytest.mark.parametrize("row", BAD.strip().splitlines())
def test_a_bad_line_ends_in_one_line_and_leaves_nothing(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line, words = row.split(" | ", 1) if " | " in row else row.rsplit("| ", 1)
    with pytest.raises(Stop) as caught:
        start(line.split())
    assert words.strip() in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.code == 2 and capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("algorithm", ["", "  ", "'", "darts --epochs=0", "gdas --run_dir=x"])
def test_bad_words_of_one_search_of_a_comparison(algorithm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stop) as caught:
        compare.main(["darts", algorithm])
    assert caught.value.code == 2 and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_older_words_of_a_seed_without_a_run(tmp_path):
    (tmp_path / "seed-x").mkdir()
    folder_of(tmp_path, image_search.Config)
    with pytest.raises(Stop, match="no usable .*config.json"):
        subjects.open_run(str(tmp_path / "seed-x"))

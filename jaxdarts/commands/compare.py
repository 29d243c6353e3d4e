"""Compare algorithms by searches with each of them.

    jaxdarts compare [OPTIONS] ALGORITHM ... [-- FLAGS]
    jaxdarts compare darts sdarts_rs "milenas --lambda_valid=999" -- --num_seeds=3

Every word, or group of words in quotes, is an algorithm of jaxdarts search with flags of its own;
what follows -- goes to all of them. Each is searched with all its seeds in one program, and is a
row of the table, printed as soon as it is there: mean +- deviation over the seeds of the validation
loss and accuracy of the supernet; accuracy of the derived cell with the same weights, and the gap
between the two; mean loss of random cells; how much better the cell is than its neighbours (with
--flatness); skip connections; dominant eigenvalue of the Hessian of the validation loss with
respect to alpha (with --eigenvalue_freq); milliseconds a step. With --table, searches of
NAS-Bench-201 have the true test accuracy of the derived cell in further columns, and with
--ranked_cells Kendall's tau between the accuracies of random cells with the shared weights and
their true ones; --output has the true accuracy of the cell of every epoch. --page is an HTML page
with the table, curves and cells.

The same command goes on where an interrupted one ended, and takes searches that are finished as
they are. For one page of finished runs, whatever they are, see jaxdarts analyze compare.
"""

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypedDict

import numpy as np

from jaxdarts import files, genotypes, report, runs
from jaxdarts.analysis.ranking import kendall_tau
from jaxdarts.commands import checks, command_line, compare_page, flags, methods
from jaxdarts.commands.search import command as search_command
from jaxdarts.commands.search.results import RANKING, Ranking
from jaxdarts.data.benchmarks import tabular
from jaxdarts.runs import Stop, flag
from jaxdarts.space import of_genotype

COLUMNS = {
    "valid_loss": "valid loss",
    "valid_accuracy": "valid acc.",
    "found_cell_supernet_accuracy": "cell acc.",
    "discretisation_gap_accuracy": "gap",
    "found_cell_supernet_loss": "cell loss",
    "random_cells_supernet_loss": "random loss",
    "flatness_gap_accuracy": "flatness gap",
    "skips": "skips",
    "eigenvalue": "eigenvalue",
}
CONTINUES = "the same command continues it"
NOT_OF_A_ROW = (
    *("run_dir", "output", "resume", "algorithm", "fork", "estimate", "device"),
    *("coordinator", "num_hosts", "host"),
)
"""Flags that neither all searches nor one of them may be given."""


@dataclasses.dataclass(frozen=True)
class Config(flags.Output):
    """Which algorithms, and where the searches go."""

    COMMAND: ClassVar[str] = "compare"
    TOPIC: ClassVar[str] = "subject"

    algorithms: tuple[str, ...] = flag(
        (),
        f"Algorithms of {', '.join(methods.METHODS)}; in quotes with flags of their own.",
        positional=True,
    )
    run_dir: str | None = flag(
        None,
        "Folder for the searches; default runs/compare-DATASET-HASH, where HASH is made from the"
        " flags after --.",
    )
    page: str | None = flag(
        None, "HTML file with the table, curves over the epochs and the cells; default none."
    )
    table: str | None = flag(
        None,
        "Table of NAS-Bench-201 (a CSV file, plain or gzip) in which cells are looked up; its"
        " columns DATASET_test_200 are the true test accuracies. Needs --space=nasbench201 after"
        " --.",
    )


class Record(TypedDict):
    """What every record of a search has."""

    step: int
    seconds: float


class Row(NamedTuple):
    """One search of the comparison.

    text: its words.
    line: its flags, but for the folder.
    config: its settings.
    folder: its run folder.
    kind: images or text.
    """

    text: str
    line: list[str]
    config: Any
    folder: Path
    kind: str


def main(arguments: Sequence[str]) -> None:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    shared = list(arguments[split + 1 :])
    config = command_line.read(Config, arguments[:split], Config(), __doc__)
    checks.check_flags(config)
    if not config.algorithms:
        raise Stop("name one algorithm of jaxdarts search or more; --help lists them", 2)
    root = Path(config.run_dir or default_folder(shared))
    rows = [row_of(text, shared, root) for text in dict.fromkeys(config.algorithms)]
    truth = true_accuracies(config, rows)
    for row in rows:
        check_earlier(row)
    columns = dict(COLUMNS)
    for dataset in truth:
        columns |= {column_of(dataset): f"{dataset} test", f"{dataset}_tau": f"{dataset} tau"}
    columns["step_ms"] = "ms/step"
    results, head = {}, ["algorithm", *columns.values()]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head), flush=True)
    try:
        for row in rows:
            results[row.text] = searched(row) | looked_up(row, truth)
            line = [row.text, *shown(results[row.text], columns)]
            print("| " + " | ".join(line) + " |", flush=True)
    except KeyboardInterrupt as interrupt:  # between two searches; one of them tells by itself
        name, code = runs.signals.named(interrupt)
        raise Stop(f"{name}: {CONTINUES}", code) from None
    if config.output:
        every = {"every_cell": {name: spread(table) for name, table in truth.items()}}
        result = {**runs.versions(), **(every if truth else {}), "rows": results}
        text = json.dumps(result, indent=1) + "\n"
        files.replace_text(config.output, text)
    if config.page:
        lines = [[name, *shown(values, columns)] for name, values in results.items()]
        table = report.sections.Table("Mean and deviation over the seeds", head, lines)
        folders = {row.text: [row.folder, *seed_folders(row.folder)] for row in rows}
        try:
            compare_page.write(config.page, table, results, folders, list(truth))
        except OSError as error:
            raise Stop(f"--page={config.page}: {error}") from error
        print(f"page {config.page}", flush=True)


def default_folder(shared: Sequence[str]) -> str:
    """The folder of a comparison, the same for the same flags of its searches."""
    dataset = command_line.look(shared).value("dataset").partition(":")[0] or "digits"
    number = hashlib.sha256("\0".join(shared).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"runs/compare-{dataset}-{number}"


def row_of(text: str, shared: Sequence[str], root: Path) -> Row:
    """One search, from the words of its algorithm and the flags of all; checked."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise Stop(f"{text}: {error}", 2) from error
    if not words or words[0] not in methods.METHODS:
        name = words[0] if words else repr(text)
        raise Stop(
            f"{name}: no algorithm of jaxdarts search; there are {', '.join(methods.METHODS)}", 2
        )
    given = command_line.look([*shared, *words[1:]]).given
    misplaced = [name for name in NOT_OF_A_ROW if name in given]
    if misplaced:
        way = "give it before --" if misplaced[0] in ("run_dir", "output") else "leave it out"
        raise Stop(f"--{misplaced[0]}: not a flag of one search of a comparison; {way}", 2)
    folder = root / re.sub(r"[/\\]", "_", text.replace(" ", ""))
    words = [f"--algorithm={words[0]}", *shared, *words[1:]]
    line = command_line.look([*words, f"--run_dir={folder}"])
    kind = command_line.kind_of(line, search_command.KINDS)
    module = search_command.KINDS[kind]
    return Row(text, words, module.check(module.parse(line)), folder, kind)


def check_earlier(row: Row) -> None:
    """Refuses a folder that holds a search with other settings."""
    if not (row.folder / "config.json").exists():
        return
    saved = command_line.saved(str(row.folder), "")
    earlier = command_line.resumed(type(row.config), saved, "--run_dir")
    wanted, recorded = runs.frozen(row.config), runs.frozen(earlier)
    for name, value in wanted.items():
        if recorded[name] != value:
            raise Stop(
                f"{row.folder}: holds a search with {name}={recorded[name]!r}, not {value!r}; name"
                " another --run_dir",
                2,
            )


def searched(row: Row) -> dict[str, Any]:
    """Searches, or takes the finished search that is there; {column: one number a seed}."""
    folder = row.folder
    seeds = folder.glob("seed-*/facts.json")
    if not (folder / "facts.json").exists() and not any(seeds):
        begun = (folder / "config.json").exists()
        folder_flag = f"--resume={folder}" if begun else f"--run_dir={folder}"
        line = command_line.look([*row.line, folder_flag])
        try:
            search_command.KINDS[row.kind].main(line)
        except Stop as stop:
            message = re.sub("continue with --resume=.*$", CONTINUES, str(stop))
            raise Stop(message, stop.code) from stop
    values: dict[str, list[float]] = {}
    records: list[dict[str, Any]] = []
    for of_seed in seed_folders(folder):
        path = facts = of_seed / "facts.json"
        try:
            records = files.read_json_lines(facts.parent / "metrics.jsonl", Record)
            known = {**records[-1], **files.read_json(facts, dict[str, Any])} if records else {}
            of_columns = {name: known[name] for name in COLUMNS if name in known}
            measured = files.fitting(of_columns, dict[str, float | None], str(facts))
            path = facts.parent / "genotype.json"
            cell = genotypes.from_json(files.read_text(path))
            if not known:
                raise files.Damaged(f"{facts.parent / 'metrics.jsonl'} holds no records")
        except (OSError, ValueError) as error:
            reason = str(error) if str(facts.parent) in str(error) else f"{path}: {error}"
            way = f"jaxdarts search --resume={shlex.quote(str(folder))}"
            raise Stop(
                f"{folder}: no finished search: {reason}; {way} writes it again", 2
            ) from error
        measured["skips"] = next(iter(of_genotype(cell).values())).ops.count(("skip_connect",))
        for column in COLUMNS:
            if measured.get(column) is not None:
                values.setdefault(column, []).append(float(measured[column]))
    # The first epoch compiles. Seeds are one program: its step counts once.
    steps = np.diff([0, *(record["step"] for record in records)])
    timed = [1000 * record["seconds"] / n for record, n in zip(records, steps)][1:] or [
        float("nan")
    ]
    return {**values, "step_ms": float(np.min(timed))}


def seed_folders(folder: Path) -> list[Path]:
    """The folders of a finished search, one a seed."""
    return [path.parent for path in sorted(folder.glob("seed-*/facts.json"))] or [folder]


def true_accuracies(config: Config, rows: Sequence[Row]) -> dict[str, dict[Any, float]]:
    """The table's test accuracies, {data set: {cell: percent}}; none without a table."""
    if config.table is None:
        return {}
    for row in rows:
        space = getattr(row.config, "space", None)  # a text has one space, and no flag for it
        if space != "nasbench201":
            searched_space = f"--space={space}" if space else f"--dataset={row.config.dataset}"
            raise Stop(
                f"--table: {row.text} searches {searched_space}, and the table is of nasbench201;"
                " give --space=nasbench201 and a data set of images after --",
                2,
            )
    try:
        return tabular.test_accuracies(config.table)
    except (OSError, ValueError) as error:
        raise Stop(f"--table: {error}", 2) from error


def column_of(dataset: str) -> str:
    """Name of the values of a data set in the table, in a row's result."""
    return f"{dataset}_test"


def spread(accuracies: Mapping[Any, float]) -> dict[str, float]:
    """What a random cell reaches, and the best one."""
    values = np.array(list(accuracies.values()))
    return {"mean": values.mean(), "deviation": values.std(), "best": values.max()}


def looked_up(row: Row, truth: Mapping[str, Mapping[Any, float]]) -> dict[str, Any]:
    """True accuracies of a search's cells: of the last one, and of every epoch's, by seed.

    The cells of the epochs are those of alpha; a method whose alpha rests chooses its cell by
    validation alone, and has no others than the last one. A search with `--ranked_cells` has
    Kendall's tau too.
    """
    values: dict[str, list[Any]] = {}
    if not truth:
        return values
    space = methods.space_of(row.config)
    for folder in seed_folders(row.folder):
        try:
            cell = genotypes.from_json(files.read_text(folder / "genotype.json"))
            alphas = files.read_arrays(folder / "alphas.npz")
            if "cell" not in alphas:
                raise files.Damaged(f"{folder / 'alphas.npz'} has no array cell")
            rests = len(alphas["cell"]) > 1 and not np.ptp(alphas["cell"], axis=0).any()
            mixes = [] if rests else alphas["cell"]
            every = [space.discretize({"cell": mix}) for mix in mixes]
            ranking = ranking_of(folder)
            ranked = [genotypes.parse(text) for text in ranking["cells"]] if ranking else []
            for dataset, accuracies in truth.items():
                name = column_of(dataset)
                values.setdefault(name, []).append(accuracies[cell])
                by_epoch = [accuracies[one] for one in every]
                values.setdefault(f"{name}_of_every_epoch", []).append(by_epoch)
                if ranking:
                    true = np.array([accuracies[one] for one in ranked])
                    tau = kendall_tau(np.array(ranking["accuracy"]), true)
                    values.setdefault(f"{dataset}_tau", []).append(tau)
        except KeyError as error:
            raise Stop(f"--table: {folder}: {error} is not in the table", 2) from error
        except (OSError, ValueError) as error:
            raise Stop(f"{folder}: no finished search: {error}", 2) from error
    return values


def ranking_of(folder: Path) -> Ranking | None:
    """Accuracies of random cells with the shared weights of a search; None without them."""
    path = folder / RANKING
    if not path.exists():
        return None
    ranking = files.read_json(path, Ranking)
    if len(ranking["cells"]) != len(ranking["accuracy"]):
        raise files.Damaged(f"{path} does not have one accuracy for each cell")
    return ranking


def shown(values: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """One row's values as text, in the order of the columns."""
    return [
        f"{values[column]:.0f}"
        if column == "step_ms"
        else runs.mean_and_deviation(values[column])
        if column in values
        else ""
        for column in columns
    ]

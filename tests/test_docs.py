"""The pages run: every Python block, and every command line as far as its flags."""

import ast
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests.data.benchmarks.test_tables import training
from tests.genotypes.test_graphs import graph

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "experiments" / "results" / "README.md",
]
SHELL = ("", "sh", "bash")
SLOW = ("train.md", "text.md", "deploy.md")
"""Pages whose blocks read a finished run."""
TINY = "--epochs=1 --max_steps=2 --batch_size=32 --num_devices=1"
RUNS = {
    "train.md": f"evaluate --arch=DARTS_V1 --init_channels=2 --layers=1 {TINY}"
    " --run_dir=runs/eval-digits",
    "deploy.md": f"evaluate --arch=DARTS_V1 --init_channels=2 --layers=1 {TINY}"
    " --run_dir=runs/trained",
    "text.md": f"evaluate --dataset=pydoc --arch=DARTS_V1 --emsize=8 {TINY}"
    " --run_dir=runs/eval-pydoc",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def code_of(page: Path) -> str:
    return "\n".join(text for language, text in blocks(page) if language == "python")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run(arguments: list[str], folder: Path) -> str:
    cache = str(jax.config.jax_compilation_cache_dir)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": cache,
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


WITH_CODE = [
    pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if page.name in SLOW else [])
    for page in PAGES
    if code_of(page)
]


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_python_of_a_page_runs(page, tmp_path):
    if page.name in RUNS:
        run(["-m", "jaxdarts", *RUNS[page.name].split()], tmp_path)
    if page.name == "benchmarks.md":
        stored = graph("011 001 000", "conv3x3-bn-relu")
        (tmp_path / "nasbench_only108.tfrecord").write_bytes(training(stored, 108, 0.9, 0.8, 1000))
    shown = run(["-c", code_of(page)], tmp_path)
    for expected in re.findall(r"print\(.*?\)  # ([\d.]+)$", code_of(page), re.MULTILINE):
        assert expected in shown.split()
    if page.name == "README.md":
        assert shown.startswith("Genotype(normal=["), shown


def test_the_pages_have_no_indented_code_and_their_languages_are_known():
    for page in PAGES:
        text = page.read_text("utf-8")
        assert {language for language, _ in blocks(page)} <= {*SHELL, "python", "text"}, page
        outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"^    \S", outside, re.MULTILINE), page
        for language, code in blocks(page):
            if language == "python":
                ast.parse(code)


def command_lines(page: Path) -> list[list[str]]:
    """The words of every line of a shell block, comments left out."""
    lines = []
    for language, text in blocks(page):
        if language in SHELL:
            text = re.sub(r"(?<=\s)\$\(\[.*?\]\s.*\)$", "", text, flags=re.MULTILINE)
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]  # variables of the environment
                words = words[1:] if words[:1] == ["srun"] else words
                if words[:1] in (["jaxdarts"], ["python"]):
                    lines.append(words)
    return lines


PARSE = r"""
import json, os, sys
import tyro
from jaxdarts.__main__ import main


class Parsed(Exception):
    pass


def until_parsed(*arguments, cli=tyro.cli, **options):
    cli(*arguments, **options)
    raise Parsed


def no_exit(code):
    raise SystemExit(code)


tyro.cli, os._exit = until_parsed, no_exit
refused = []
for words in json.load(sys.stdin):
    sys.argv = words
    try:
        main()
        refused.append([*words, "read nothing"])
    except Parsed:
        pass
    except SystemExit as error:
        if error.code:
            refused.append(words)
print(json.dumps(refused))
"""


def without_run(word: str) -> str:
    """The word of a command line, with a published cell or another flag for a run's folder."""
    if "ensemble" in word:
        return "--ensemble=grow:dense"
    if word.startswith("--resume="):
        return "--seed=1"
    return re.sub(r"^(--(?:arch|select)=)?runs/[^,]*$", r"\1DARTS_V2", word)


def test_the_flags_of_every_command_exist():
    """tyro reads the flags of each line; then the line ends, before anything is done.

    Run folders of the pages do not exist here: flags and cells that start from one give way to
    others of the same kind.
    """
    lines = []
    for page in PAGES:
        for words in command_lines(page):
            if words[0] == "jaxdarts" and words[1:2] not in (
                ["nats_to_csv"],
                ["convert"],
                ["analyze"],
            ):
                lines.append([without_run(word) for word in words if word != "..."])
    assert len(lines) > 40
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr[-3000:]


def test_the_analyses_in_the_pages_exist():
    from jaxdarts.commands.analyze.command import COMMANDS

    sources = (ROOT / "jaxdarts" / "commands" / "analyze").glob("*.py")
    source = "\n".join(path.read_text("utf-8") for path in sources)
    lines = [words for page in PAGES for words in command_lines(page) if words[1] == "analyze"]
    assert len(lines) > 4
    for words in lines:
        assert words[2] in COMMANDS, words
        arguments = words[3 : words.index("--")] if "--" in words else words[3:]
        for flag in (word.partition("=")[0][2:] for word in arguments if word.startswith("--")):
            assert re.search(rf"\b{flag}\b", source), words


def test_the_scripts_in_the_pages_have_the_flags():
    """A benchmark's flags stand in its source, or in that of the benchmark it imports."""
    folder = ROOT / "experiments" / "benchmarks"
    seen = set()
    for page in PAGES:
        for words in command_lines(page):
            if words[0] == "python" and words[1].endswith(".py"):
                assert (ROOT / words[1]).parent == folder, words
                source = (ROOT / words[1]).read_text("utf-8")
                for flag in (word.partition("=")[0][2:] for word in words if word[:2] == "--"):
                    assert re.search(rf"\b{flag}\b", source), words
                seen.add(words[1])
    assert seen


def test_flags_in_the_text_exist():
    """Names of flags in prose; a source of the programs, or of a benchmark, declares each."""
    sources = [*(ROOT / "jaxdarts" / "commands").rglob("*.py")]
    sources += [*(ROOT / "experiments").rglob("*.py")]
    declared = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in sources)))
    elsewhere = {"nthreads", "port", "help", "version"}  # Dask's, and everybody's
    for page in PAGES:
        for flag in re.findall(r"`--(?:no-)?(\w+)", page.read_text("utf-8")):
            assert flag in declared | elsewhere, (page.name, flag)


def test_links_lead_to_files():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


RESULTS = ROOT / "experiments" / "results"
NUMBER = re.compile(r"(?<![\w.])[-\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")


def numbers_in(value) -> list[float]:
    """Every number of a file, and the means and deviations of its lists of numbers."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, (int, float)):
        return [float(value)]
    parts = list(value.values()) if isinstance(value, dict) else value
    numbers = [number for part in parts for number in numbers_in(part)]
    if isinstance(value, list) and 1 < len(value) < 20:
        columns = [value]
        if all(isinstance(part, dict) for part in value):
            columns = [[part.get(name) for part in value] for name in value[0]]
        for column in columns:
            if all(type(number) in (int, float) for number in column):
                numbers += [statistics.mean(column), statistics.stdev(column)]
    return numbers


def shown_as(text: str, known: list[float]) -> bool:
    """Whether a number of a table is one of the file's, rounded; percent, MB and seconds too."""
    text = text.replace(",", "").replace("\N{MINUS SIGN}", "-")
    mantissa, _, exponent = text.partition("e")
    digits = len(mantissa.partition(".")[2])
    half = 0.5 * 10.0 ** (int(exponent or 0) - digits) * 1.001
    scales = (1, 100, -1, 1e-3, 1e3, 1e-6)
    return any(abs(scale * number - float(text)) <= half for number in known for scale in scales)


def tables_of_results() -> list[tuple[list[str], list[list[str]]]]:
    """(files, rows) of every table of measurements; the text above a table names its files."""
    text = (RESULTS / "README.md").read_text("utf-8")
    tables, above = [], ""
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith("|"):
            above = paragraph if "`" in paragraph else above
            continue
        files = re.findall(r"`(\w+\.jsonl?)`", above)
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in paragraph.splitlines()]
        tables.append((files, rows))
    return tables


def test_the_tables_of_results_are_those_of_the_files():
    (_, listed), *tables = tables_of_results()
    assert {row[0].strip("`") for row in listed[2:]} == {
        path.name for path in RESULTS.glob("*.json*")
    }
    assert len(tables) > 15
    wrong, checked = [], 0
    for files, (head, _, *rows) in tables:
        known = [
            number
            for file in files
            for line in (RESULTS / file).read_text("utf-8").splitlines()
            if file.endswith(".jsonl")
            for number in numbers_in(json.loads(line))
        ]
        known += [
            number
            for file in files
            if file.endswith(".json")
            for number in numbers_in(json.loads((RESULTS / file).read_text("utf-8")))
        ]
        for row in rows:
            for title, cell in zip(head[1:], row[1:], strict=True):
                if "published" not in title:
                    cell = re.sub(r"\([\d.]+x\)", "", cell)  # a ratio of two columns
                    for number in NUMBER.findall(cell):
                        checked += 1
                        if not shown_as(number, known):
                            wrong.append((files, row[0], title, number))
    assert checked > 400 and not wrong, wrong


def test_every_file_of_results_has_its_command():
    listed = tables_of_results()[0][1][2:]
    for name, _, command in listed:
        text = (RESULTS / name.strip("`")).read_text("utf-8")
        first = re.match(r"`(.*?)`", command)
        if first and name.endswith(".json`"):
            words = [word for word in first[1].split() if word.startswith("--")]
            assert all(json.dumps(word)[1:-1] in text for word in words), name

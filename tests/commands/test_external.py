"""Values of cells by a program of the user's own. Oracles: small programs written here."""

import json
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

import jaxdarts as jd
from jaxdarts.commands.discrete import command as script
from jaxdarts.commands.discrete import evaluators, external
from jaxdarts.runs import Stop

ONCE = """
import json, sys
asked = json.loads(sys.stdin.read())
print("starting")
print("a word", file=sys.stderr)
print(asked["arch"].count("conv"))
"""
STAYS = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    print(asked["arch"].count("conv") + 0.5 * (asked["epochs"] or 0), flush=True)
open("ended", "a").write(f"{os.getpid()}\\n")
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program and gives its command line; it starts in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "program.py").write_text(text, encoding="utf-8")
        return shlex.join([sys.executable, "-SE", str(tmp_path / "program.py")])

    return write


def run(folder, command, *flags):
    words = ["--cache_dir=", "--evaluate=command", f"--evaluate_command={command}"]
    script.main([*words, "--algorithm=random", f"--run_dir={folder}", *flags])


@pytest.mark.parametrize("name", evaluators.SPACES)
def test_a_program_reads_a_cell_of_every_space(name, program, tmp_path):
    space = evaluators.SPACES[name]
    text = "import sys\nopen('asked', 'w').write(sys.stdin.readline())\nprint(3)"
    genotype = space.sample(jax.random.key(0))
    assert external.value_of(program(text), 60, False)(genotype, 7) == 3
    asked = json.loads((tmp_path / "asked").read_text(encoding="utf-8"))
    assert asked["epochs"] == 7 and jd.genotypes.parse(asked["arch"]) == genotype
    assert jd.genotypes.from_json(json.dumps(asked["genotype"])) == genotype


def test_one_process_for_each_cell_and_one_that_stays_agree(program, tmp_path):
    values = {}
    for name, text, flags in (("once", ONCE, ()), ("stays", STAYS, ("--evaluate_stays",))):
        run(tmp_path / name, program(text), "--budget_evaluations=4", *flags)
        records = jd.files.read_json_lines(tmp_path / name / "history.jsonl")
        values[name] = [(record["genotype"], record["value"]) for record in records]
        assert all(record["seconds"] > 0 for record in records)
    assert values["once"] == values["stays"] and len(values["once"]) == 4
    assert all(value == genotype.count("conv") for genotype, value in values["once"])
    summary = json.loads((tmp_path / "once" / "summary.json").read_text(encoding="utf-8"))
    assert summary["value"]["mean"] == max(value for _, value in values["once"])


def test_a_process_that_stays_answers_in_threads_and_ends_with_its_input(program, tmp_path):
    genotype = jd.spaces.nasbench201().sample(jax.random.key(1))
    value = external.value_of(program(STAYS), 60, True)
    with ThreadPoolExecutor(3) as pool:
        values = list(pool.map(lambda epochs: value(genotype, epochs), range(9)))
    assert [v - values[0] for v in values] == [0.5 * epochs for epochs in range(9)]
    process = external.Process(external.words_of(program(STAYS)), "", 60)
    process.next_answer(external.question(genotype, None))
    pid = process.process.pid
    process.end(60)
    assert (tmp_path / "ended").read_text(encoding="utf-8").split() == [str(pid)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("import sys; sys.exit('no GPU\\nhere')", "exit status 1: no GPU here"),
        ("print(3); raise SystemExit(4)", "exit status 4; what was finished is saved"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("pass", "printed nothing, not a number"),
        ("print('accuracy 93')", "printed 'accuracy 93', not a number"),
        ("import sys; sys.stderr.write('x' * 9999); sys.exit(1)", "exit status 1: ...xxx"),
    ],
)
def test_a_failure_is_one_line_and_the_search_goes_on(text, message, program, tmp_path):
    counted = (
        "with open('n', 'a') as file:\n    n = file.tell()\n    file.write('.')\n"
        f"if n > 1: {text}\nelse: print(n)"
    )
    folder = tmp_path / "run"
    with pytest.raises(Stop, match="run 0, trial 2 ") as caught:
        run(folder, program(counted), "--budget_evaluations=4")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000 and "--resume=" in str(caught.value)
    program("print(5)")
    script.main(["--cache_dir=", f"--resume={folder}"])
    records = jd.files.read_json_lines(folder / "history.jsonl")
    assert [record["value"] for record in records] == [0, 1, 5, 5]


@pytest.mark.slow
def test_programs_of_several_workers(program, tmp_path):
    flags = ["--budget_evaluations=6", "--evaluate_stays", "--concurrent=2", "--workers=2"]
    run(tmp_path / "run", program(STAYS), *flags)
    records = jd.files.read_json_lines(tmp_path / "run" / "history.jsonl")
    assert len(records) == 6
    assert all(record["value"] == record["genotype"].count("conv") for record in records)
    # Their input ends with the workers, which leave nothing behind.
    limit = time.monotonic() + 20
    while time.monotonic() < limit and len(lines_of(tmp_path / "ended")) < 1:
        time.sleep(0.1)
    assert lines_of(tmp_path / "ended")


def lines_of(path):
    return path.read_text(encoding="utf-8").split() if path.exists() else []


@pytest.mark.parametrize("stays", [False, True])
def test_a_slow_program_is_ended_with_all_that_it_has_started(stays, program, tmp_path):
    text = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-SE', '-c', 'import time; time.sleep(60)'])\n"
        "open('child', 'w').write(str(child.pid))\ntime.sleep(60)"
    )
    value = external.value_of(program(text), 0.5, stays)
    start = time.monotonic()
    with pytest.raises(ValueError, match="no answer within --evaluate_timeout=0.5 seconds"):
        value(jd.spaces.nasbench201().sample(jax.random.key(0)), None)
    assert time.monotonic() - start < 20
    stat = f"/proc/{(tmp_path / 'child').read_text(encoding='utf-8')}/stat"
    if sys.platform == "linux":
        limit = time.monotonic() + 20
        while time.monotonic() < limit and alive(stat):
            time.sleep(0.01)
        assert not alive(stat)


def alive(stat: str) -> bool:
    try:
        with open(stat, encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_that_stays_must_print_one_line_for_each(program):
    genotype = jd.spaces.nasbench201().sample(jax.random.key(0))
    text = "import sys, time\nfor line in sys.stdin:\n    print('1\\n2', flush=True)"
    value = external.value_of(program(text), 60, True)
    value(genotype, None)
    limit = time.monotonic() + 20
    with pytest.raises(ValueError, match="printed '2' after its answer; one line for each cell"):
        while time.monotonic() < limit:
            value(genotype, None)
    value = external.value_of(program("print(1)"), 60, True)  # ends after its first answer
    assert value(genotype, None) == 1
    with pytest.raises(ValueError, match="exit status 0"):
        value(genotype, None)


def test_what_is_not_finite_ranks_last(program, tmp_path, capsys):
    text = "import os\nprint('nan' if os.path.exists('n') else 1)\nopen('n', 'w')"
    run(tmp_path / "run", program(text), "--budget_evaluations=3")
    records = jd.files.read_json_lines(tmp_path / "run" / "history.jsonl")
    assert [record["value"] for record in records] == [1, None, None]
    assert "2 trials have a value that is not finite; they rank last" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["best_genotype"] == records[0]["genotype"]


def test_an_algorithm_that_chooses_the_length_tells_it(program, tmp_path):
    text = ONCE.replace('asked["arch"].count("conv")', 'asked["epochs"]')
    flags = ["--algorithm=halving", "--lengths", "3", "6", "--starters=2"]
    run(tmp_path / "run", program(text), "--budget_evaluations=3", *flags)
    records = jd.files.read_json_lines(tmp_path / "run" / "history.jsonl")
    assert [record["value"] for record in records] == [3, 3, 6]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--evaluate_command="], "--evaluate_command='': no command; such as 'python my.py'"),
        (["--evaluate_command=  "], "no command"),
        (["--evaluate_command=a\0b"], "must be UTF-8 without NUL characters"),
        (["--evaluate_command=python 'a"], "--evaluate_command=python 'a: No closing quotation"),
        (["--evaluate_command=nowhere 3"], "there is no program 'nowhere'"),
        (["--evaluate_timeout=0"], "--evaluate_timeout=0.0: must be positive"),
        (["--evaluate_timeout=1e9"], "--evaluate_timeout=1000000000.0: must be"),
        (["--evaluate=proxy"], "--evaluate_command=true: only with --evaluate=command"),
    ],
)
def test_bad_flags_are_one_line(flags, message, tmp_path):
    with pytest.raises(Stop) as caught:
        run(tmp_path / "run", "true", "--budget_evaluations=3", *flags)
    assert message in str(caught.value) and caught.value.code == 2
    assert not (tmp_path / "run").exists()

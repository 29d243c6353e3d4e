"""The notebook: cloned into an empty folder, and run twice in one process, as "run all" twice in
one session.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = (ROOT / "experiments" / "quickstart.ipynb").read_text("utf-8")
CODE = [cell for cell in json.loads(NOTEBOOK)["cells"] if cell["cell_type"] == "code"]
TWICE = """
import sys
from pathlib import Path

program = compile(Path(sys.argv[1]).read_text("utf-8"), sys.argv[1], "exec")
for _ in range(2):
    exec(program, {"__name__": "__main__"})
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def source(cells, repository: Path) -> str:
    text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(
        r'^REPOSITORY = "[^"]*"', f"REPOSITORY = {str(repository)!r}", text, flags=re.MULTILINE
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of the files as they are, changes included."""
    if not shutil.which("git"):
        pytest.skip("no git")
    folder = tmp_path_factory.mktemp("repository")
    for name in ("experiments", "jaxdarts"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    for arguments in (
        ("init", "-q"),
        ("add", "-A"),
        ("commit", "-q", "-m", "The files as they are"),
    ):
        run(*git, *arguments, cwd=folder)
    return folder


def test_cells_hold_no_outputs_and_one_address():
    assert all(not cell["outputs"] for cell in CODE)
    (address,) = re.findall(r'REPOSITORY = \\"https://github.com/([\w./-]+)\\"', NOTEBOOK)
    assert (
        f"colab.research.google.com/github/{address}/blob/main/experiments/quickstart.ipynb"
        in NOTEBOOK
    )


@pytest.mark.slow
def test_the_notebook_runs_twice(repository, tmp_path):
    (tmp_path / "all.py").write_text(source(CODE, repository), "utf-8")
    (tmp_path / "twice.py").write_text(TWICE, "utf-8")
    (folder := tmp_path / "session").mkdir()
    # The scripts name their cache below this folder; the suite's is called jaxdarts-tests, theirs
    # jaxdarts.
    cache = Path(jax.config.jax_compilation_cache_dir) / "notebook"
    out = run(sys.executable, "../twice.py", "../all.py", cwd=folder, XDG_CACHE_HOME=str(cache))
    results = [line for line in out.splitlines() if re.match(r"found +\d|random +\d|\[\d", line)]
    assert len(results) == 6 and results[:3] == results[3:]
    reports = sorted((folder / "jaxdarts" / "runs").glob("quickstart-search-*/report.html"))
    assert len(reports) == 2

    # Another session finds the clone, from outside and from the notebook's own folder.
    (tmp_path / "first.py").write_text(source(CODE[:1], repository), "utf-8")
    for cwd in (folder, folder / "jaxdarts" / "experiments"):
        assert run(sys.executable, tmp_path / "first.py", cwd=cwd).strip() == str(
            folder / "jaxdarts"
        )


@pytest.mark.slow
def test_an_unreachable_repository_is_an_error_that_says_so(tmp_path):
    (tmp_path / "first.py").write_text(source(CODE[:1], tmp_path / "nowhere"), "utf-8")
    done = subprocess.run(
        [sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (
        done.returncode == 1
        and "RuntimeError: git clone" in done.stderr
        and "nowhere" in done.stderr
    )

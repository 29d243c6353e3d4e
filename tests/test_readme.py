"""The README: what it prints runs as it stands."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax

import jaxdarts as jd
from jaxdarts import __main__ as program

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_it_has_one_page():
    assert len(README.splitlines()) <= 200


def test_the_search_in_python_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith("Genotype(normal=["), done.stderr


def test_its_commands_and_pages_exist():
    commands = re.findall(r"^jaxdarts (\w+)", README, flags=re.MULTILINE)
    assert commands and set(commands) <= set(program.COMMANDS)
    pages = re.findall(r"\]\((docs/[\w./]+)\)", README)
    assert pages and all((ROOT / page).is_file() for page in pages)


def test_commands_run_in_the_environment_that_the_main_command_leaves(tmp_path):
    """The main command with a stand-in for pip: afterwards each program that a page calls is that
    of the environment, and no other Python's.
    """
    (main,) = re.findall(r"<!-- main command -->\n```\n(.*?)\n```", README)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    lines = [
        line
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        if line.startswith(("python", "jaxdarts"))
    ]
    lines += re.findall(r"`((?:python3?|jaxdarts) [^`\n]+)`", text)
    called = {line.split()[0] for line in lines if not line.startswith("python3 -m venv")}
    assert len(lines) > 30 and called == {"python", "jaxdarts"}
    pip = tmp_path / "modules" / "pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text(
        "import pathlib, sys\n"
        "assert sys.argv[1:] == ['install', '-q', '-e', '.'], sys.argv\n"
        "program = pathlib.Path(sys.executable).with_name('jaxdarts')\n"
        "program.write_text('#!/bin/sh\\necho searched')\n"
        "program.chmod(0o755)\n"
    )
    python = f"{shlex.quote(sys.executable)} -m venv --without-pip"
    shown = "\n".join(f"command -v {name}" for name in sorted(called))
    done = subprocess.run(
        ["sh", "-c", f"{main.replace('python3 -m venv', python)}\n{shown}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(pip.parent)},
        check=False,
    )
    programs = [f"{tmp_path}/.venv/bin/{name}" for name in sorted(called)]
    assert done.stdout.splitlines() == ["searched", *programs], done.stderr


def test_the_names_in_the_pages_exist():
    pages = [README, *(page.read_text("utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
    names = {name for page in pages for name in re.findall(r"\bjd((?:\.[a-z]\w*)+)", page)}
    assert len(names) > 30
    for name in names:
        functools.reduce(getattr, name[1:].split("."), jd)


def test_the_dispatcher_names_what_it_does_not_know(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split("jaxdarts serach --dataset=digits"))
    try:
        program.main()
    except SystemExit as error:
        assert error.code == 2
    assert "no command 'serach'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["jaxdarts", "--help"])
    program.main()
    shown = capsys.readouterr().out
    assert all(name in shown for name in program.COMMANDS)

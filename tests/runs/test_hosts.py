"""Search on two hosts, here two processes. Oracle: one process with as many devices."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.commands.search import images as script
from jaxdarts.runs import Stop
from jaxdarts.runs.hosts import reach

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "search.py"

TINY = (
    "--layers=1 --nodes=1 --ops none skip_connect --init_channels=2 --no-unrolled --report_freq=2"
).split()


@pytest.fixture(scope="module")
def tiny():
    return [*TINY, f"--cache_dir={jax.config.jax_compilation_cache_dir}"]


@pytest.fixture
def both():
    """Starts the script on two hosts of one device each; none outlives the test."""
    started = []
    yield lambda *arguments: started.extend(pair := hosts(*arguments)) or pair
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def hosts(*arguments):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = "--xla_force_host_platform_device_count=1"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": flags,
        "PYTHONWARNINGS": "default",
    }
    command = [
        sys.executable,
        str(SCRIPT),
        *arguments,
        f"--coordinator=127.0.0.1:{port}",
        "--num_hosts=2",
        "--num_devices=1",
    ]
    pipes = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": environment,
    }
    return [subprocess.Popen([*command, f"--host={host}"], **pipes) for host in (0, 1)]


def last(folder):
    """The last record and mixes of a run, and its genotype."""
    with np.load(folder / "alphas.npz") as saved:
        mixes = {name: saved[name][-1] for name in ("normal", "reduce")}
    return (
        jd.files.read_json_lines(folder / "metrics.jsonl"),
        mixes,
        (folder / "genotype.json").read_text(),
    )


def assert_close(folder, other):
    (records, mixes, genotype), (expected, wanted, cell) = last(folder), last(other)
    assert genotype == cell and [r["step"] for r in records] == [r["step"] for r in expected]
    for name in mixes:
        np.testing.assert_allclose(mixes[name], wanted[name], atol=1e-4)
    for record, other in zip(records, expected, strict=True):
        for name in ("train_loss", "valid_loss"):
            assert record[name] == pytest.approx(other[name], abs=1e-4)


@pytest.mark.slow
def test_a_search_goes_from_one_host_to_two_of_which_one_is_lost_and_back(
    tiny, both, tmp_path, devices
):
    on_one_host, run = tmp_path / "whole", tmp_path / "run"
    script.main([*tiny, "--num_devices=2", "--max_steps=44", f"--run_dir={on_one_host}"])
    script.main([*tiny, "--num_devices=4", "--max_steps=4", f"--run_dir={run}"])
    before = {path.name for path in run.iterdir()}

    processes = both(f"--resume={run}", "--max_steps=0", "--checkpoint_freq=3")
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "24").exists():  # in the second epoch
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.01)
    processes[1].kill()
    _, errors = processes[0].communicate(timeout=200)
    processes[1].communicate()
    assert processes[0].returncode == 1
    lines = [line for line in errors.splitlines() if not re.match("[EW][0-9]{4} ", line)]
    assert lines == [
        f"search.py: host 0: another host was lost; continue on all hosts with --resume={run}"
    ]
    assert {path.name for path in run.iterdir()} == before
    config = json.loads((run / "config.json").read_text())
    assert not {"coordinator", "num_hosts", "host"} & config.keys()

    script.main([f"--resume={run}", "--num_devices=1", "--max_steps=33"])
    log = (run / "log.txt").read_text()
    assert int(re.findall(r"resumed at step (\d+)", log)[-1]) >= 24

    processes = both(f"--resume={run}", "--max_steps=44")
    for process in processes:
        assert process.communicate(timeout=300)[1] == ""
        assert process.returncode == 0
    assert log.count("report ") < (run / "log.txt").read_text().count("report ")
    assert_close(run, on_one_host)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--num_hosts=2", "need --coordinator"),
        ("--coordinator=here", "--coordinator=here: must be HOST:PORT, or auto"),
        ("--coordinator=here:1 --num_hosts=2", "--host=None, --num_hosts=2"),
        ("--coordinator=here:1 --num_hosts=2 --host=2", "--host=2, --num_hosts=2"),
        ("--coordinator=auto --host=1", "leave them out"),
        ("--coordinator=here:1 --num_hosts=2 --host=0 --estimate", "on one host"),
    ],
)
def test_flags_that_say_too_little_or_too_much(flags, message):
    with pytest.raises(script.Stop) as caught:
        script.main(flags.split())
    assert message in str(caught.value) and caught.value.code == 2


def test_a_first_host_that_is_not_there(capsys):
    """A line at once, and another one at the end of a limit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(Stop, match=f"127.0.0.1:{port}: no host listens there after 0.1 s"):
            reach("127.0.0.1", port, 0.1)
        line = f"waiting for the first host at 127.0.0.1:{port}, for 0.1 s at most"
        assert capsys.readouterr().out.strip() == line
        free.listen()
        reach("127.0.0.1", port, 0.1)

"""Where trials run: processes and a cluster on the loopback address, a part of which is killed,
give what one process does.
"""

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import jaxdarts as jd
from jaxdarts.commands.discrete import command as script
from jaxdarts.runs import Stop, workers

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "discrete.py"
FLAGS = ["--cache_dir=", "--algorithm=rea", "--budget_evaluations=25", "--runs=4"]


@pytest.fixture(scope="module")
def small(table, tmp_path_factory):
    """What the study finds without workers, and a table of the cells that it meets: new processes
    read it in no time.
    """
    folder = tmp_path_factory.mktemp("here")
    script.main([*FLAGS, f"--table={table}", f"--run_dir={folder / 'run'}"])
    met = {
        record["genotype"] for record in jd.files.read_json_lines(folder / "run" / "history.jsonl")
    }
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if row.partition(",")[0] in met]
    (folder / "table.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder / "table.csv", results(folder / "run")


def results(folder):
    """Every run's trials, and the summary but for what tells of the machine."""
    records = jd.files.read_json_lines(folder / "history.jsonl")
    records = sorted(records, key=lambda record: (record["run"], record["step"]))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return records, {
        name: summary[name]
        for name in ("config", "valid_12", "test_200", "trials", "best_genotype")
    }


def lines(folder):
    """How many trials are in the history."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "history.jsonl").read_text(encoding="utf-8").count("\n")
    return 0


def until(condition, seconds=120):
    """Waits for something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_local_process_is_killed(small, tmp_path):
    folder, killed = tmp_path / "run", []

    def kill():
        until(lambda: lines(folder) > 5)
        killed.extend(multiprocessing.active_children()[:1])
        killed[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    script.main([*FLAGS, f"--table={small[0]}", f"--run_dir={folder}", "--workers=2"])
    killer.join()
    assert killed and results(folder) == small[1]


@contextlib.contextmanager
def cluster(folder, count=2):
    """A scheduler and workers, as processes: (address, workers, scheduler)."""
    pytest.importorskip(
        "distributed", reason="dask.distributed is not installed: pip install 'jaxdarts[cluster]'"
    )
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
    }

    def start(kind, *arguments):
        log = (folder / f"{kind}-{len(processes)}.txt").open("w")
        flags = [*arguments, "--no-dashboard"]
        command = [sys.executable, "-m", "dask", kind, *flags]
        processes.append(
            subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=folder)
        )
        log.close()

    processes = []
    try:
        start("scheduler", "--host=127.0.0.1", "--port=0", "--scheduler-file=scheduler.json")
        until((folder / "scheduler.json").exists)
        until(lambda: (folder / "scheduler.json").read_text().endswith("}"))
        address = json.loads((folder / "scheduler.json").read_text())["address"]
        for _ in range(count):
            start("worker", address, "--host=127.0.0.1", "--nthreads=1", "--no-nanny")
        yield address, processes[1:], processes[0]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_worker_of_a_cluster_is_killed(small, tmp_path):
    folder = tmp_path / "run"
    with cluster(tmp_path) as (address, killable, _):
        flags = [*FLAGS, f"--table={small[0]}", f"--run_dir={folder}", f"--scheduler={address}"]
        with (tmp_path / "script.txt").open("w") as log:
            study = subprocess.Popen(
                [sys.executable, str(SCRIPT), *flags], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            until(lambda: lines(folder) > 5 or study.poll() is not None)
            killable[0].kill()
            assert study.wait(timeout=120) == 0, (tmp_path / "script.txt").read_text()
        finally:
            study.kill()
            study.wait()
    assert results(folder) == small[1]


@pytest.mark.slow
def test_the_scheduler_of_a_cluster_is_killed(small, tmp_path):
    """The study ends in one line; on another cluster it goes on, and no trial counts twice."""
    folder = tmp_path / "run"

    def study(address, *flags):
        words = [*flags, f"--scheduler={address}"]
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *words], stdout=subprocess.DEVNULL, stderr=log
        )

    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with (tmp_path / "errors.txt").open("w") as log:
        with cluster(tmp_path / "first") as (address, _, scheduler):
            process = study(address, *FLAGS, f"--table={small[0]}", f"--run_dir={folder}")
            try:
                until(lambda: lines(folder) > 5 or process.poll() is not None)
                scheduler.kill()
                assert process.wait(timeout=120) == 1
            finally:
                process.kill()
                process.wait()
        [line] = (tmp_path / "errors.txt").read_text().splitlines()
        assert f"--scheduler={address}: no scheduler answers there" in line
        assert line.endswith(f"what was finished is saved: continue with --resume={folder}")
        before = lines(folder)
        assert 5 < before < 100
        with cluster(tmp_path / "second") as (address, *_):
            assert study(address, f"--resume={folder}").wait(timeout=120) == 0
    assert (tmp_path / "errors.txt").read_text().count("\n") == 1
    assert results(folder) == small[1]


@pytest.mark.parametrize(
    "address, words",
    [
        *((address, "no address; it must be like") for address in ("nowhere", "[", " ", "a:b")),
        ("http://127.0.0.1:1", "no address"),
        ("tcp://127.0.0.1", "no address"),
        ("ucx://127.0.0.1:1", "no address"),
        ("127.0.0.1:1", "no scheduler answers there: Timed out"),
        ("tcp://127.0.0.1:99999", "no scheduler answers there"),
        ("tls://127.0.0.1:1", "no scheduler answers there"),
    ],
)
def test_no_scheduler(address, words, small, tmp_path, monkeypatch, capfd):
    pytest.importorskip(
        "distributed", reason="dask.distributed is not installed: pip install 'jaxdarts[cluster]'"
    )
    monkeypatch.setattr(workers, "SECONDS", 1)
    with pytest.raises(Stop) as caught:
        script.main(
            [*FLAGS, f"--table={small[0]}", f"--run_dir={tmp_path}/run", f"--scheduler={address}"]
        )
    assert f"--scheduler={address}: {words}" in str(caught.value) and caught.value.code == 2
    assert not (tmp_path / "run").exists() and capfd.readouterr().err == ""

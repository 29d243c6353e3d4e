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
from jaxdarts.runs import Stop

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
    """A scheduler and workers, as processes: (address, workers)."""
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
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_worker_of_a_cluster_is_killed(small, tmp_path):
    folder = tmp_path / "run"
    with cluster(tmp_path) as (address, workers):
        flags = [*FLAGS, f"--table={small[0]}", f"--run_dir={folder}", f"--scheduler={address}"]
        with (tmp_path / "script.txt").open("w") as log:
            study = subprocess.Popen(
                [sys.executable, str(SCRIPT), *flags], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            until(lambda: lines(folder) > 5 or study.poll() is not None)
            workers[0].kill()
            assert study.wait(timeout=120) == 0, (tmp_path / "script.txt").read_text()
        finally:
            study.kill()
            study.wait()
    assert results(folder) == small[1]


def test_no_scheduler(small, tmp_path):
    pytest.importorskip(
        "distributed", reason="dask.distributed is not installed: pip install 'jaxdarts[cluster]'"
    )
    with pytest.raises(Stop, match="--scheduler=nowhere: no scheduler answers there"):
        script.main([*FLAGS, f"--table={small[0]}", f"--run_dir={tmp_path}", "--scheduler=nowhere"])

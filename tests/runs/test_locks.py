"""One run at a time in a folder."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

import jaxdarts as jd
from jaxdarts import runs
from jaxdarts.commands.search import images as image_search
from jaxdarts.runs import locks

HOLD = """
import pathlib, sys, time
from jaxdarts.runs import locks
log = locks.logger(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path):
    config = dataclasses.replace(
        image_search.PRESETS["digits"], run_dir=str(tmp_path), resume=str(tmp_path)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(runs.Stop) as caught:
            runs.open_folder(config, "search")
        assert (
            str(caught.value).startswith(f"--run_dir={tmp_path}: another run is writing there")
            and caught.value.code == 2
        )
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    jd.runs.writers.close_logger(locks.logger(tmp_path))  # nothing is left of the lock
    log = locks.logger(tmp_path)
    with pytest.raises(locks.Locked):
        locks.logger(tmp_path)
    jd.runs.writers.close_logger(log)


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    jd.runs.writers.close_logger(locks.logger(tmp_path))
    assert "start no second run into this folder" in (tmp_path / "log.txt").read_text()

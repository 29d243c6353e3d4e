"""The script that compares algorithms, on searches of seconds."""

import json

import jax
import numpy as np
import pytest

from jaxdarts.commands import compare
from jaxdarts.runs import Stop


def test_a_table_of_two_algorithms(tmp_path, capsys):
    flags = (
        "--layers=1 --nodes=1 --ops none skip_connect --init_channels=2 --epochs=2 --num_devices=1"
        " --no-unrolled --num_seeds=2"
    )
    shared = [
        "--",
        *flags.split(),
        "--eigenvalue_freq=1",
        f"--cache_dir={jax.config.jax_compilation_cache_dir}",
    ]
    asked = [
        "darts",
        "milenas --lambda_valid=2",
        f"--run_dir={tmp_path}/runs",
        f"--output={tmp_path}/table.json",
    ]
    compare.main([*asked, *shared])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "darts",
        "milenas --lambda_valid=2",
    ]
    result = json.loads((tmp_path / "table.json").read_text())
    for row in result["rows"].values():
        assert {"valid_loss", "found_cell_supernet_accuracy", "eigenvalue", "skips"} <= set(row)
        assert all(
            len(values) == 2 and np.all(np.isfinite(values))
            for name, values in row.items()
            if name != "step_ms"
        )
    # Searches that are finished are not repeated.
    before = (tmp_path / "runs" / "darts" / "log.txt").read_bytes()
    compare.main([*asked, *shared])
    assert (tmp_path / "runs" / "darts" / "log.txt").read_bytes() == before
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == result["rows"]


def test_an_unknown_algorithm():
    with pytest.raises(Stop, match="gdas2: no algorithm of jaxdarts search; there are darts"):
        compare.main(["darts", "gdas2"])

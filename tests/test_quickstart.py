"""The notebook: its cells, in order, as one script in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]


def test_the_notebook_runs(tmp_path):
    notebook = json.loads((ROOT / "experiments" / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    script = tmp_path / "quickstart.py"
    lines = "\n\n".join(source for source in sources if not source.startswith("%pip")).replace("runs/", f"{tmp_path}/runs/")
    script.write_text(lines, encoding="utf-8")
    cache = Path(jax.config.jax_compilation_cache_dir)
    # The scripts name their cache below this folder; the suite's is called jaxdarts-tests, theirs jaxdarts.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache / "notebook")}
    done = subprocess.run([sys.executable, script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "test error" in done.stdout and (tmp_path / "runs" / "quickstart-search" / "report.html").exists()

"""A trial that kills its process, in a module that a new process imports in no time."""

import os
import signal
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    """What a search looks at in a trial."""

    genotype: str
    value: float
    seconds: float
    epochs: None = None


def deadly(folder: Path, genotype: str) -> Result:
    """Kills its process the first time that it meets "c"."""
    if genotype == "c" and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Result(genotype, 1.0, 1.0)

"""The command `jaxdarts evaluate`: trains a cell on images or on texts, or an ensemble.

--dataset, --ensemble or the run to resume says which.
"""

from collections.abc import Sequence
from typing import Any

from jaxdarts.commands import command_line
from jaxdarts.commands.ensemble import command as ensemble
from jaxdarts.commands.evaluate import images, text

KINDS: dict[str, Any] = {"images": images, "text": text, "ensemble": ensemble}
"""The module of each kind of task."""


def main(arguments: Sequence[str]) -> None:
    line = command_line.look(arguments)
    KINDS[command_line.kind_of(line, KINDS)].main(line)

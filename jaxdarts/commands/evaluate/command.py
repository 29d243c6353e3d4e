"""jaxdarts evaluate: a cell on images or on texts, or an ensemble, as --dataset, --ensemble or the
run to resume says.
"""

import importlib
from collections.abc import Sequence

from jaxdarts.commands import command_line

KINDS = {"images": "evaluate.images", "text": "evaluate.text", "ensemble": "ensemble.command"}


def main(arguments: Sequence[str]) -> None:
    line = command_line.look(arguments)
    module = importlib.import_module(
        f"jaxdarts.commands.{KINDS[command_line.kind_of(line, KINDS)]}"
    )
    module.main(line)

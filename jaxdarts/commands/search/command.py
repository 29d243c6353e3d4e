"""jaxdarts search: on images or on texts, as --dataset or the run to resume says."""

from collections.abc import Sequence
from typing import Any

from jaxdarts.commands import command_line
from jaxdarts.commands.search import images, text

KINDS: dict[str, Any] = {"images": images, "text": text}
"""The module of each kind of task, with `parse`, `check` and `main`."""


def main(arguments: Sequence[str]) -> None:
    line = command_line.look(arguments)
    KINDS[command_line.kind_of(line, KINDS)].main(line)

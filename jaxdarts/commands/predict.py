"""Classify pictures by a trained network.

    jaxdarts predict runs/eval-flowers-20260102-030405 garden/*.jpg

Pictures may have any size and kind: they are turned as their camera says, resized and cut to what
the network was trained on. A line for each file has the likeliest classes and their probabilities.
A file that is no picture is named, and the others are classified.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts.commands import checks, command_line
from jaxdarts.data import pictures
from jaxdarts.data.optional import require
from jaxdarts.files import Damaged
from jaxdarts.runs import Stop, flag, jitted
from jaxdarts.runs.flags import POSITIVE
from jaxdarts.training import export

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """Classify pictures by a trained network."""

    COMMAND: ClassVar[str] = "predict"
    TOPIC: ClassVar[str] = "subject"

    run: str = flag("", "Run folder of jaxdarts evaluate.", positional=True)
    files: tuple[str, ...] = flag((), "Pictures of any size and kind.", positional=True)
    top: int = flag(3, "Number of classes in a line, the likeliest first.", POSITIVE)


def main(arguments: Sequence[str]) -> None:
    config = command_line.read(Config, arguments, Config(), __doc__)
    if not config.run or not config.files:
        raise Stop("name the run folder of a trained network and pictures; see --help", 2)
    checks.check_flags(config)
    try:
        shape = export.image_shape(config.run)
        facts = export.facts_of(config.run)
        apply, params = export.load(config.run)
    except ValueError as error:
        raise Stop(str(error), 2) from error
    if shape[2] not in (1, 3):
        raise Stop(f"{config.run}: the network takes images of {shape[2]} channels, no pictures", 2)
    try:
        require("PIL.Image", "pillow", "a picture")
    except ModuleNotFoundError as error:
        raise Stop(str(error), 2) from error
    names = facts.get("class_names") or [str(i) for i in range(facts["num_classes"])]
    probabilities = jitted(lambda params, pixels: jax.nn.softmax(apply(params, pixels)))
    size, broken = min(BATCH, len(config.files)), 0
    for start in range(0, len(config.files), size):
        read: list[tuple[str, np.ndarray | str]] = []
        for file in config.files[start : start + size]:
            try:
                read.append((file, pictures.fitted(file, shape, facts.get("shorter_side"))))
            except (Damaged, OSError) as error:
                read.append((file, " ".join(str(error).split())))
        pixels = np.zeros((size, *shape), np.uint8)  # of one size, so that one program does
        good = [content for _, content in read if not isinstance(content, str)]
        if good:
            pixels[: len(good)] = good
        rows = iter(np.asarray(probabilities(params, jnp.asarray(pixels))) if good else ())
        for file, content in read:
            if isinstance(content, str):
                broken += 1
                print(content)
            else:
                print(f"{file}  {likeliest(next(rows), names, config.top)}")
    if broken:
        raise Stop(f"{broken} of {len(config.files)} files could not be read")


def likeliest(probabilities: np.ndarray, names: Sequence[str], number: int) -> str:
    """The likeliest classes.

    >>> likeliest(np.array([0.1, 0.7, 0.2]), ["cat", "dog", "fox"], 2)
    'dog 70.0 %  fox 20.0 %'
    """
    order = np.argsort(-probabilities, kind="stable")[:number]
    return "  ".join(f"{names[i]} {100 * probabilities[i]:.1f} %" for i in order)

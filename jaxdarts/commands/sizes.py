"""The sizes at which `jaxdarts evaluate` trains a cell unless it is told other ones."""

from typing import Any

from jaxdarts.space import Space

STREAMED = 224
"""Height and width of streamed pictures where no flag says otherwise."""


def evaluated(space: Space) -> tuple[int, int]:
    """Width and depth of the networks whose parameters and multiply-adds are reported.

    They are the papers' for CIFAR-10.
    """
    assert space.size is not None  # every space with a supernet has one
    return space.size


def trained(config: Any, space: Space) -> tuple[int, int]:
    """Width and depth of the network that is trained from the cell of a search."""
    size = evaluated(space)
    if config.dataset == "digits":
        size = 8, 3
    elif has_imagenet_stem(space, config.dataset):
        size = 48, 14
    width, depth = (getattr(config, f"trained_{name}", None) for name in ("channels", "layers"))
    return width or size[0], depth or size[1]


def has_imagenet_stem(space: Space, dataset: str) -> bool:
    """Whether the network that is trained has the stem for large images."""
    return dataset == "imagenet2012" and evaluated(space) == (36, 20)


def words(space: Space, size: tuple[int, int]) -> str:
    """A width and a depth of a space's network in words, for labels."""
    of_stage = " a stage" if evaluated(space) != (36, 20) else ""
    return f"{size[0]} channels and {size[1]} cells{of_stage}"

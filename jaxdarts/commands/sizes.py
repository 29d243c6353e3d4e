"""The size at which `jaxdarts evaluate` trains a cell unless it is told another one."""

from jaxdarts.commands import methods
from jaxdarts.space import Space


def trained(space: Space, dataset: str) -> tuple[int, int]:
    """Width and depth of the network that is trained from a cell of a space on a data set."""
    published = methods.evaluated(space)
    if dataset == "digits":
        return 8, 3
    return (48, 14) if has_imagenet_stem(space, dataset) else published


def has_imagenet_stem(space: Space, dataset: str) -> bool:
    """Whether the network that is trained has the stem for large images."""
    return dataset == "imagenet2012" and methods.evaluated(space) == (36, 20)


def words(space: Space, size: tuple[int, int]) -> str:
    """A width and a depth of a space's network in words, for labels."""
    of_stage = " a stage" if methods.evaluated(space) != (36, 20) else ""
    return f"{size[0]} channels and {size[1]} cells{of_stage}"

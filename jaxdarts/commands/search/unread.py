"""Flags of a search that its method does not read, so that nobody believes that they did
something.
"""

from typing import Any

from jaxdarts import runs
from jaxdarts.commands import methods, reproduce
from jaxdarts.space import Space

_OF_THE_NETWORK = ("partial", "drop_path_prob", "drop_path_start", "skip_dropout")
_OF_ALPHA = (
    "arch_optimizer",
    "arch_learning_rate",
    "arch_weight_decay",
    "arch_grad_clip",
    "arch_beta1",
    "arch_warmup",
)


class _Recorded:
    """A configuration that notes which of its flags are read."""

    def __init__(self, config: Any):
        self.config, self.names = config, set()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self.config, name)


def unread(config: Any, space: Space) -> list[str]:
    """The flags of a method that differ from its preset although the method does not read them."""
    read = _Recorded(config)
    algorithm = methods.of_space(read, space, 1)
    flags = {
        name
        for name, one in runs.declared(type(config)).items()
        if one.topic == "method" and name not in (*_OF_THE_NETWORK, "algorithm")
    }
    if not methods.learnt(algorithm):
        flags |= set(_OF_ALPHA) & runs.declared(type(config)).keys()
        read.names -= set(_OF_ALPHA)
    before = config.start().settings
    return sorted(
        name for name in flags - read.names if getattr(config, name) != getattr(before, name)
    )


def warnings(config: Any, space: Space) -> list[str]:
    """A line for each flag that does nothing."""
    return [
        f"warning: {' '.join(reproduce.words(name, getattr(config, name)))} does nothing with"
        f" --algorithm={config.algorithm}"
        for name in unread(config, space)
    ]

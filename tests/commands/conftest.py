"""Programs: one that a module's commands run several times is built, traced and compiled once."""

import dataclasses
import functools
import hashlib
import sys

import jax
import jaxtyping
import numpy as np
import pytest

from jaxdarts.commands import enas
from jaxdarts.commands.analyze import ranking, ranking_program  # noqa: F401
from jaxdarts.commands.discrete import evaluators  # noqa: F401
from jaxdarts.commands.ensemble import members  # noqa: F401
from jaxdarts.commands.evaluate import image_program as image_training
from jaxdarts.commands.evaluate import text as text_training
from jaxdarts.commands.search import image_program as image_search
from jaxdarts.commands.search import text as text_search

BUILDERS = (
    image_search.build,
    text_search.build,
    image_training.build,
    text_training.build,
    enas.build,
    ranking_program.build,
)
# What these name does not change what is compiled.
FREE = dict(
    run_dir=None,
    resume=None,
    cache_dir="",
    max_steps=0,
    keep_checkpoints=1,
    checkpoint_freq=0,
    report_freq=1,
    eigenvalue_freq=0,
    stop_skips=0,
    fork=None,
    fork_epoch=0,
    flatness=False,
    derive_batches=1,
)


def digest(data) -> str:
    """Of the arrays of a data set, and of all else that it holds."""
    total = hashlib.sha256(str(jax.tree.structure(data)).encode())
    for leaf in jax.tree.leaves(data):
        total.update(repr(getattr(leaf, "shape", leaf)).encode())
        total.update(leaf.tobytes() if isinstance(leaf, np.ndarray) else b"")
    return total.hexdigest()


@pytest.fixture(autouse=True, scope="session")
def _programs():
    """The programs that were built, by the configuration and all data that they came from."""
    programs = {}

    def once(build):
        @functools.wraps(build)
        def built(config, *rest):
            # A narrowed space is read from the run folder.
            if getattr(config, "stage_keep", ()) or getattr(config, "candidates", None):
                return build(config, *rest)
            free = {name: value for name, value in FREE.items() if hasattr(config, name)}
            key = build, dataclasses.replace(config, **free), *map(digest, rest)
            if key not in programs:
                programs[key] = build(config, *rest)
            return programs[key]

        return built

    with pytest.MonkeyPatch.context() as patch:
        for build in BUILDERS:
            wrapper = once(build)
            for name, module in list(sys.modules.items()):
                if name.startswith("jaxdarts.") and vars(module).get("build") is build:
                    patch.setattr(module, "build", wrapper)
        yield programs


@pytest.fixture(autouse=True, scope="module")
def _unchecked():
    """Annotations are checked where the library is tested: programs only call it, and the checks
    take a quarter of the time that tracing takes.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs(_programs):
    """Frees them with the module's other compiled functions."""
    yield
    _programs.clear()

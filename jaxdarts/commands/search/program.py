"""Parts that searches on images and on texts have in common.

Pure functions of the program, and what the loop asks of a search.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Key

from jaxdarts import files, hypergrad, parallel, runs
from jaxdarts.bilevel import Algorithm, Search, SearchState, bilevel_search
from jaxdarts.commands import methods, programs
from jaxdarts.commands.search import history as search_history
from jaxdarts.commands.search import results as search_results
from jaxdarts.commands.search import unread
from jaxdarts.commands.search.history import History
from jaxdarts.space import Space
from jaxdarts.types import Carry, Objective, Params

LOWER = "--learning_rate or --arch_learning_rate"
"""The flags to lower where a number is not finite."""


class Searches(NamedTuple):
    """The search of an algorithm, and what it does in the epochs of --arch_warmup."""

    search: Search
    warm_up: Search


def searches(
    objective: Objective,
    algorithm: Algorithm,
    params_tx: optax.GradientTransformation,
    arch_tx: optax.GradientTransformation,
) -> Searches:
    """The search and its warm-up, over devices.

    Their states are of one form. A step of the warm-up trains weights only: it costs no
    hypergradient.
    """
    both = (
        bilevel_search(objective, one, params_tx, arch_tx, axis_name=parallel.AXIS)
        for one in (algorithm, algorithm._replace(hypergrad=hypergrad.none))
    )
    return Searches(*both)


def start_of(
    config: Any,
    search: Search,
    params_of: Callable[[Key[Array, ""]], Params],
    metrics: Iterable[str],
    carry: tuple[Carry, Carry] = ((), ()),
) -> runs.Training[SearchState]:
    """Initial states of the searches of all seeds."""

    def init(key: Key[Array, ""]) -> SearchState:
        params_key, search_key = jax.random.split(key)
        return search.init(search_key, params_of(params_key), carry)

    return programs.start(programs.seeds_of(config), init, metrics)


def about(config: Any, space: Space) -> Callable[[runs.Training[SearchState]], Sequence[str]]:
    """Training -> lines at the beginning of a search's log."""
    return lambda training: [
        f"param size = {search_results.num_params(config, training) / 1e6:f}MB",
        *unread.warnings(config, space),
    ]


def checked(state: SearchState) -> dict[str, Any]:
    """Arrays that must be finite to be saved."""
    return {"a weight": state.params, "alpha": state.arch}


def records_of(config: Any, run: runs.Run, space: Space) -> Callable[[int], list[History]]:
    """Step -> the records of every seed up to there; writes down which space is searched."""

    def open_records(step: int) -> list[History]:
        folders = search_history.folders(config, run.folder)
        histories = [History(config, folder, step, space, run.log) for folder in folders]
        files.replace_text(run.folder / "space.json", methods.space_to_json(space))
        return histories

    return open_records

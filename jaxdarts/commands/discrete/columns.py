"""Columns of tables in a search: scores that an algorithm looks at, and limits of cells."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from jaxdarts.commands.discrete import evaluators
from jaxdarts.runs import Stop
from jaxdarts.space import Space, seeded

LIMITED = ("random", "rea", "area", "best_of", "halving")
"""Algorithms that draw and mutate cells, and propose no others: those that --table_limits binds."""


def scores_of(config: Any) -> Mapping[Any, float]:
    """The scores that the algorithm looks at, of a file.

    Raises:
        Stop: if there is none.
    """
    of_space = evaluators.SPACES[config.space].table
    read = of_space and of_space.column
    if not read or not (config.scores or config.table):
        raise Stop(
            f"--scores: --algorithm={config.algorithm} needs a file of scores, of cells of"
            f" --space={config.space}",
            2,
        )
    flag = "scores" if config.scores else "table"
    name = config.score or "params_millions"
    return evaluators.opened(flag, config.scores or config.table, lambda path: read(path, name))


def within_limits(config: Any) -> frozenset[Any] | None:
    """The cells of the table that keep --table_limits; None without limits.

    Raises:
        Stop: if a limit cannot be used, or there is no such cell.
    """
    if not config.table_limits:
        return None
    given = f"--table_limits={' '.join(config.table_limits)}"
    if config.algorithm not in LIMITED:
        raise Stop(f"{given}: only with --algorithm={', '.join(LIMITED)}", 2)
    of_space = evaluators.SPACES[config.space].table
    read = of_space and of_space.column
    if not read or not config.table:
        raise Stop(f"{given}: needs a --table of cells of --space={config.space}", 2)
    cells: set[Any] | None = None
    for text in config.table_limits:
        name, _, number = text.rpartition("=")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not name or math.isnan(limit):
            raise Stop(f"--table_limits={text}: must be COLUMN=NUMBER", 2)
        column = evaluators.opened("table", config.table, lambda path, name=name: read(path, name))
        kept = {cell for cell, value in column.items() if value <= limit}
        cells = kept if cells is None else cells & kept
    if not cells:
        raise Stop(f"{given}: no cell of the table keeps it", 2)
    return frozenset(cells)


def limited(space: Space, allowed: frozenset[Any]) -> Space:
    """The space, of which only the allowed cells are drawn and mutated into.

    A mutation that is not allowed is drawn again; after a hundred of them any allowed cell is
    taken.
    """
    space = drawn_among(space, sorted(allowed, key=str))

    def mutate(key, genotype):
        for i in range(100):
            other = inner(jax.random.fold_in(key, i), genotype)
            if other in allowed:
                return other
        return space.sample(key)

    inner = space.mutate
    return space._replace(mutate=mutate)


def scored(column: Mapping[Any, float], genotype: Any) -> float:
    """The score of a cell."""
    if genotype not in column:
        raise ValueError(
            f"the scores have {len(column)} cells, and {genotype} is none of them; --scored_only"
            " draws among those there are"
        )
    return column[genotype]


def drawn_among(space: Space, cells: list[Any]) -> Space:
    """The space, but random cells are these."""
    if not cells:
        raise Stop("--table_limits and --scored_only: no cell keeps the limits and has a score", 2)
    return space._replace(sample=lambda key: cells[seeded(key).integers(len(cells))])

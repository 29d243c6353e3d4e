"""Cells of skip connections, or without weights: searches and trainings warn of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdarts.nn.ops import OPS
from jaxdarts.space import Space, of_genotype

PARAMETER_FREE = frozenset(
    ("none", "maxpool3x3", *(name for name, op in OPS.items() if not op.shapes(1, 1)))
)
"""Operations without weights."""


def operations(space: Space, genotype: Any) -> dict[str, list[str]]:
    """Operations of every cell of a genotype; rows that choose sources are left out."""
    chosen = of_genotype(genotype)
    return {
        name: [op for (op,) in chosen[name].ops]
        for name, choices in space.cells.items()
        if choices.picks is None
    }


def convolutions(ops: Sequence[str]) -> int:
    """Operations of a cell that have weights."""
    return sum(op not in PARAMETER_FREE for op in ops)


def degenerate(record: Mapping[str, Any], cell: str, operations: int) -> str | None:
    """Warning about a cell of skip connections, or without parameters; None for other cells.

    Args:
        record: of the epoch that the cell is from, with `skip_<cell>` and `parameter_free_<cell>`.
        cell: its name.
        operations: how many it has.
    """
    skips, free = record.get(f"skip_{cell}", 0), record.get(f"parameter_free_{cell}", 0)
    if 2 * skips <= operations and free < operations:
        return None
    return (
        f"the {cell} cell degenerates: {skips} of its {operations} operations are skip connections,"
        f" {free} have no weights"
    )


def warning(chosen: Mapping[str, Sequence[str]]) -> str | None:
    """Warning for a report about a genotype that degenerates; None for other genotypes.

    The first cell counts: the normal one where there are two.

    Args:
        chosen: the operations of every cell, as of `operations`.
    """
    if not chosen:
        return None
    main, ops = next(iter(chosen.items()))
    counts = {
        f"skip_{main}": list(ops).count("skip_connect"),
        f"parameter_free_{main}": len(ops) - convolutions(ops),
    }
    text = degenerate(counts, main, len(ops))
    return f"{text[0].upper()}{text[1:]}. Such cells train badly" if text else None

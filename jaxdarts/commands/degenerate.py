"""Cells that degenerate: of skip connections, or without weights. Searches and trainings warn of
them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdarts.nn.ops import OPS
from jaxdarts.space import Space, of_genotype

PARAMETER_FREE = frozenset(
    ("none", "maxpool3x3", *(name for name, op in OPS.items() if not op.shapes(1, 1)))
)
"""Operations without weights."""


def operations(space: Space, genotype: Any) -> dict[str, list[str]]:
    """What every cell of a genotype computes with; rows that choose sources are no cells of
    operations.
    """
    chosen = of_genotype(genotype)
    return {
        name: [op for (op,) in chosen[name].ops]
        for name, choices in space.cells.items()
        if choices.picks is None
    }


def degenerate(record: Mapping[str, Any], cell: str, operations: int) -> str | None:
    """What is wrong with a cell of skip connections, or without parameters; None where nothing is.

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
    """The same of the operations of all cells, for a report: the first cell counts, the normal one
    where there are two.
    """
    if not chosen:
        return None
    main, ops = next(iter(chosen.items()))
    counts = {
        f"skip_{main}": list(ops).count("skip_connect"),
        f"parameter_free_{main}": sum(op in PARAMETER_FREE for op in ops),
    }
    text = degenerate(counts, main, len(ops))
    return f"{text[0].upper()}{text[1:]}. Such cells train badly" if text else None

"""Mean and deviation over seeds."""

from collections.abc import Sequence

import numpy as np


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Mean and deviation of one number a seed; a single one has no deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation}


def mean_and_deviation(
    values: Sequence[float] | np.ndarray, scale: float = 1.0, digits: int = 3, unit: str = ""
) -> str:
    """Mean and deviation as text."""
    shown = [
        f"{scale * value:.{digits}f}{unit}"
        for value in spread(values).values()
        if value is not None
    ]
    return " +- ".join(shown)

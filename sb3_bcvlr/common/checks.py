"""What arguments can be. A mistake is told before anything is learned, with what was expected."""

from collections.abc import Collection
from typing import Any

import numpy as np


def check_whole(minimum: int = 1, **numbers: Any) -> None:
    """
    :raises ValueError: one is no whole number, or too small
    """
    for name, value in numbers.items():
        if not isinstance(value, int | np.integer) or value < minimum:
            raise ValueError(f"{name} is {value!r}, expected a whole number from {minimum} on.")


def is_number(value: Any) -> bool:
    """Neither a text such as YAML makes of 1e-3, nor NaN."""
    return isinstance(value, int | float | np.number) and not np.isnan(value)


def checked_names(argument: str, names: Collection[str], choices: Collection[str]) -> frozenset[str]:
    """
    :raises ValueError: a name is not one of ``choices``, or something else stands where a collection of them should
    """
    unknown = set(names) - set(choices) if isinstance(names, Collection) and not isinstance(names, str) else {names}
    if unknown:
        raise ValueError(f"{argument}: {sorted(unknown)} is not known; choose from {sorted(choices)}, in a list.")
    return frozenset(names)

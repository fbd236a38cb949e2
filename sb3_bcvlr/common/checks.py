"""What arguments can be. A mistake is told before anything is learned, with what was expected."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np


def check_whole(minimum: int = 1, **numbers: Any) -> None:
    """
    :raises ValueError: one is no whole number, or too small
    """
    for name, value in numbers.items():
        if not is_whole(value) or value < minimum:
            raise ValueError(f"{name} is {value!r}, expected a whole number from {minimum} on.")


def check_sizes(**sizes: Any) -> None:
    """
    :raises ValueError: one is no list of whole numbers from 1 on
    """
    for name, values in sizes.items():
        if not isinstance(values, Sequence) or not all(is_whole(value) and value >= 1 for value in values):
            raise ValueError(f"{name} is {values!r}, expected whole numbers from 1 on, in a list.")


def is_whole(value: Any) -> bool:
    """A number of Python or NumPy without fractions, and not True."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Neither a text such as YAML makes of 1e-3, nor NaN, nor True."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and not np.isnan(value)


def checked_names(argument: str, names: Collection[str], choices: Collection[str]) -> frozenset[str]:
    """
    :raises ValueError: a name is not one of ``choices``, or something else stands where a collection of them should
    """
    unknown = set(names) - set(choices) if isinstance(names, Collection) and not isinstance(names, str) else {names}
    if unknown:
        raise ValueError(f"{argument}: {sorted(unknown)} is not known; choose from {sorted(choices)}, in a list.")
    return frozenset(names)


def check_task(task: str, tasks: Sequence[str], suite: str) -> None:
    """
    :raises ValueError: ``task`` is not one of ``tasks``; the message names those that look like it, or else all
    """
    if task not in tasks:
        close = get_close_matches(task, tasks, cutoff=0.7)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of: {', '.join(tasks)}"
        raise ValueError(f"{suite} has no task {task!r}; {hint}")

"""Hyper-parameters as data: ``BCVLR(env, videos, **hyperparams.get("bcvlr", "procgen"))``."""

from copy import deepcopy
from importlib import import_module
from typing import Any

ALGORITHMS = ("bcvlr",)


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """``second`` over ``first``, dictionaries inside likewise: ``policy_kwargs`` keeps what is not named again."""
    both = {key: merged(first[key], second[key]) for key in first.keys() & second.keys() if isinstance(second[key], dict)}
    return {**first, **second, **both}


def get(algorithm: str, suite: str, task: str | None = None, **changes: Any) -> dict[str, Any]:
    """
    Keyword arguments of an algorithm's constructor, the suite's and over them the task's, in a fresh dict.

    :param changes: other arguments, ``merged`` over these
    :raises ValueError: there is no such algorithm or suite; a task that is not listed just has nothing of its own
    """
    if algorithm.lower() not in ALGORITHMS:
        raise ValueError(f"No hyper-parameters for algorithm {algorithm!r}; choose from {list(ALGORITHMS)}.")
    module = import_module(f"sb3_bcvlr.hyperparams.{algorithm.lower()}")
    if suite.lower() not in module.SUITES:
        raise ValueError(f"No hyper-parameters for suite {suite!r}; choose from {sorted(module.SUITES)}.")
    of_task = module.TASKS.get(suite.lower(), {}).get((task or "").lower(), {})
    return merged(deepcopy({**module.SUITES[suite.lower()], **of_task}), changes)

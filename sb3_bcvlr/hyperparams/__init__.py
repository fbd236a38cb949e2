"""Hyper-parameters as data: ``BCVLR(env, videos, **hyperparams.get("bcvlr", "procgen"))``."""

from copy import deepcopy
from difflib import get_close_matches
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
    :raises ValueError: there is no such algorithm or suite, or the task looks like one that has settings of its own; one that
        does not just has none
    """
    if algorithm.lower() not in ALGORITHMS:
        raise ValueError(f"No hyper-parameters for algorithm {algorithm!r}; choose from {list(ALGORITHMS)}.")
    module = import_module(f"sb3_bcvlr.hyperparams.{algorithm.lower()}")
    if suite.lower() not in module.SUITES:
        raise ValueError(f"No hyper-parameters for suite {suite!r}; choose from {sorted(module.SUITES)}.")
    tasks, task = module.TASKS.get(suite.lower(), {}), (task or "").lower()
    close = get_close_matches(task, tasks, n=1, cutoff=0.6)
    if close and task not in tasks:
        raise ValueError(f"{task!r} has no hyper-parameters of its own; did you mean {close[0]!r}? Leave it out if not.")
    of_task = tasks.get(task, {})
    return merged(deepcopy({**module.SUITES[suite.lower()], **of_task}), changes)

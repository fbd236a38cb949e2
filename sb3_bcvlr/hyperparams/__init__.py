"""Hyper-parameters as data: ``BCVLR(env, videos, **hyperparams.get("bcvlr", "procgen"))``."""

from copy import deepcopy
from importlib import import_module
from typing import Any

ALGORITHMS = ("bcvlr",)


def get(algorithm: str, suite: str, task: str | None = None) -> dict[str, Any]:
    """
    Keyword arguments of an algorithm's constructor, the suite's and over them the task's, in a fresh dict.

    :raises ValueError: there is no such algorithm or suite; a task that is not listed just has nothing of its own
    """
    if algorithm.lower() not in ALGORITHMS:
        raise ValueError(f"No hyper-parameters for algorithm {algorithm!r}; choose from {list(ALGORITHMS)}.")
    module = import_module(f"sb3_bcvlr.hyperparams.{algorithm.lower()}")
    if suite.lower() not in module.SUITES:
        raise ValueError(f"No hyper-parameters for suite {suite!r}; choose from {sorted(module.SUITES)}.")
    of_task = module.TASKS.get(suite.lower(), {}).get((task or "").lower(), {})
    return deepcopy({**module.SUITES[suite.lower()], **of_task})

"""Environments that show pixels. Each suite loads when it is asked for, so that no other simulator is needed."""

from importlib import import_module
from typing import Any

__all__ = ["ForagingEnv", "make_procgen"]

_HOMES = {"ForagingEnv": "foraging", "make_procgen": "procgen"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Environments that show pixels. Each suite loads when it is asked for, so that no other simulator is needed."""

from importlib import import_module
from typing import Any

_HOMES = {
    "ForagingEnv": "foraging",
    "dmcontrol_env": "dmcontrol",
    "grayscale": "frame_stack",
    "make_dmcontrol": "dmcontrol",
    "make_metaworld": "metaworld",
    "make_procgen": "procgen",
    "metaworld_env": "metaworld",
    "stack_frames": "frame_stack",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

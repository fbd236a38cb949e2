"""What the scripts' arguments can be: types for argparse, which tells the rest as one line, and so for what comes after it."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISTAKES = ValueError, TypeError, OSError, ImportError  # of arguments, files and packages


@contextmanager
def told_in_a_line(mistakes: tuple[type[Exception], ...] = MISTAKES) -> Iterator[None]:
    """Around what is made of the arguments, not around what learns: a mistake there is the user's, and needs no traceback."""
    try:
        yield
    except mistakes as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number from 0 on."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return float(text)


def json_object(text: str) -> dict[str, Any]:
    """Arguments by name."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text} is no object such as '{{\"tau\": 0.1}}'")
    return value

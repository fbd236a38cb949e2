"""What the scripts' arguments can be: types for argparse, which tells the rest as one line."""

import argparse
import json
from typing import Any


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
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

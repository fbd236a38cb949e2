"""Files that are whole or not there."""

import csv
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """
    A path to write to, beside ``path`` and of its ending, which becomes ``path`` when the block has ended well and is removed
    otherwise. The folder is made where there is none; a link stays one.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A line for each row under the names of the first; no rows, no names."""
    with written_beside(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows, by the names of the first line."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))

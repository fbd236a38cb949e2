"""Tables of the documentation are those that their csv makes."""

import importlib.util
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "docs" / "benchmarks"


def test_the_table_of_whole_runs_is_the_csvs():
    spec = importlib.util.spec_from_file_location("tables", BENCHMARKS / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (BENCHMARKS / "speed.md").read_text()
    assert tables.with_tables(page) == page, "run python docs/benchmarks/tables.py"

"""The table of whole runs is what its csv makes of it, and links lead somewhere."""

import re
from pathlib import Path

import tables

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "docs" / "benchmarks"


def anchors(page: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", page, re.MULTILINE)}


def test_the_table_of_whole_runs_is_the_csvs():
    page = (BENCHMARKS / "defaults.md").read_text()
    assert tables.with_tables(page) == page, "run python docs/benchmarks/tables.py"


def test_links_lead_to_files_and_headings():
    broken = []
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target.read_text()))):
                broken.append(f"{page.name}: {link}")
    assert not broken

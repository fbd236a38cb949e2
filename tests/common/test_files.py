"""Whoever looks sees the old file or the new one."""

import pytest

from sb3_bcvlr.common.files import written_beside


def test_the_target_changes_when_the_block_has_ended(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with written_beside(path) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".txt" and not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_beside(path) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

"""Whoever looks sees the old file or the new one."""

import pytest

from sb3_bcvlr.common.files import read_csv, write_csv, written_beside


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


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "latest.txt").symlink_to("real.txt")
    with written_beside(tmp_path / "latest.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "latest.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize("rows", [[{"step": "1", "return": "2.5"}, {"step": "2", "return": "a, b"}], []])
def test_a_table_is_read_as_it_was_written(rows, tmp_path):
    write_csv(tmp_path / "curve.csv", rows)
    assert read_csv(tmp_path / "curve.csv") == rows


def test_a_row_of_other_names_leaves_the_table_that_was_there(tmp_path):
    write_csv(tmp_path / "curve.csv", [{"step": 1}])
    with pytest.raises(ValueError, match="contains fields"):
        write_csv(tmp_path / "curve.csv", [{"step": 1}, {"return": 2}])
    assert (tmp_path / "curve.csv").read_text().split() == ["step", "1"]

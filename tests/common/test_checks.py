"""What arguments can be."""

import numpy as np
import pytest

from sb3_bcvlr.common.checks import check_sizes, check_whole, checked_names, is_number


@pytest.mark.parametrize("value", [2, np.int64(2)])
def test_whole_numbers_from_the_minimum_on_pass(value):
    check_whole(2, n=value)


@pytest.mark.parametrize("value", [1, 2.0, "2", None, True])
def test_others_are_named(value):
    with pytest.raises(ValueError, match=f"n is {value!r}, expected a whole number from 2 on"):
        check_whole(2, n=value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, True), (0.5, True), (np.float32(1), True), (float("nan"), False), ("1e-3", False), (None, False), (True, False)],
)
def test_a_number_is_no_text_nor_nan(value, expected):
    assert is_number(value) == expected


@pytest.mark.parametrize("sizes", [(), (8,), [8, np.int64(16)]], ids=str)
def test_sizes_are_lists_of_whole_numbers(sizes):
    check_sizes(channels=sizes)


@pytest.mark.parametrize("sizes", [8, "8", [0], [8, 2.5], None], ids=str)
def test_other_sizes_are_named(sizes):
    with pytest.raises(ValueError, match=r"channels is .*, expected whole numbers from 1 on, in a list"):
        check_sizes(channels=sizes)


def test_names_come_back_as_a_set():
    assert checked_names("literal", ["a", "b", "a"], {"a", "b", "c"}) == {"a", "b"}


@pytest.mark.parametrize("names", ["a", ["d"], None, 5], ids=str)
def test_unknown_names_and_what_is_no_collection_are_refused(names):
    with pytest.raises(ValueError, match=r"literal: .* is not known; choose from \['a', 'b'\], in a list"):
        checked_names("literal", names, {"a", "b"})

"""Lists and ranges as llama-bench takes them."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.cli.options import MAX_LIST, FiniteRange, IntegerList, NameList


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("16", [16]),
        ("16,32", [16, 32]),
        ("1-4", [1, 2, 3, 4]),
        ("16-64+16", [16, 32, 48, 64]),
        ("128-1024*2", [128, 256, 512, 1024]),
        ("8, 8,1-2", [8, 1, 2]),
        ("5-6+5", [5]),
    ],
)
def test_lists_and_ranges(text: str, values: list[int]) -> None:
    assert IntegerList().convert(text, None, None) == values


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "4-1", "0-8*2", "1-8*1", "1-8+0", "1,,2", "1-9999999", "1.5"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        IntegerList().convert(text, None, None)


@pytest.mark.parametrize("text", ["²", "٣", "1-²", "9" * 5000, "1-" + "9" * 5000])
def test_digits_that_are_no_number_to_work_with_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        IntegerList().convert(text, None, None)


def test_a_minimum_is_kept() -> None:
    with pytest.raises(click.BadParameter):
        IntegerList(1).convert("0,1", None, None)


@given(st.text(alphabet="0123456789-+*, ", max_size=20))
def test_any_text_gives_a_bounded_list_or_a_message(text: str) -> None:
    try:
        values = IntegerList().convert(text, None, None)
    except click.BadParameter:
        return
    assert values
    assert len(values) <= MAX_LIST * 10
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "1e999", "-1", "x"])
def test_what_is_no_finite_number_is_refused(text: str) -> None:
    assert FiniteRange(min=0).convert("1.5", None, None) == 1.5
    with pytest.raises(click.BadParameter):
        FiniteRange(min=0).convert(text, None, None)


def test_names() -> None:
    assert NameList().convert("fp32, w8,fp32", None, None) == ["fp32", "w8"]
    with pytest.raises(click.BadParameter):
        NameList().convert(" , ", None, None)

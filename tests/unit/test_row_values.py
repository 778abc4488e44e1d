"""Annotations, and what becomes of values on their way into a column, as far as no database is needed to tell."""

import uuid
from decimal import Decimal
from typing import Annotated, Any, NewType, Optional, Union

import pytest
from typing_extensions import TypeAliasType

from projectiond.kinds.row_annotation import split_optional, unwrap
from projectiond.kinds.row_codec import UnfitError, described
from projectiond.kinds.row_value import ColumnType, codec_for, key_reader
from tests.support.rows import told

CustomerId = NewType("CustomerId", uuid.UUID)
Money = TypeAliasType("Money", Annotated[Decimal, "euros"])
Perhaps = TypeAliasType("Perhaps", str | None)


@pytest.mark.parametrize(
    ("annotation", "core", "is_optional"),
    [
        (str, str, False),
        (str | None, str, True),
        (Optional[str], str, True),  # noqa: UP045 -- as older code has it
        (None | str, str, True),
        (Union[str, int, None], Union[str, int], True),  # noqa: UP007 -- as older code has it
        (str | int, str | int, False),
        (Annotated[str | None, "note"], Annotated[str, "note"], True),
        (Annotated[str, "note"] | None, Annotated[str, "note"], True),
        (Annotated[str, "note"], Annotated[str, "note"], False),
        (Perhaps, str, True),
        (Money, Money, False),
        (CustomerId | None, CustomerId, True),
        (Any, Any, False),
        (list[str | None], list[str | None], False),
    ],
    ids=told,
)
def test_none_is_taken_out_of_an_annotation_wherever_it_stands(
    annotation: object, core: object, *, is_optional: bool
) -> None:
    assert split_optional(annotation) == (core, is_optional)


@pytest.mark.parametrize(("annotation", "core"), [(CustomerId, uuid.UUID), (Money, Decimal), (Annotated[int, 1], int)])
def test_names_and_notes_are_taken_off_an_annotation(annotation: object, core: object) -> None:
    assert unwrap(annotation) is core


def numeric(precision: int, scale: int) -> ColumnType:
    return ColumnType("numeric", (precision << 16 | scale & 0x7FF) + 4, is_array=False, labels=())


@pytest.mark.parametrize(
    ("number", "settled"),
    [
        ("0.005", "0.01"),
        ("-0.005", "-0.01"),
        ("0.004999", "0.00"),
        ("-0.004", "0.00"),
        ("2.345", "2.35"),
        ("7", "7.00"),
        ("1E+3", "1000.00"),
        ("NaN", "NaN"),
        ("1E+5000", "1E+5000"),
        ("Infinity", "Infinity"),
    ],
)
def test_a_number_is_rounded_as_its_column_rounds(number: str, settled: str) -> None:
    settle = codec_for(Decimal, numeric(9, 2)).settle
    assert settle is not None
    assert str(settle(Decimal(number))) == settled


@pytest.mark.parametrize("value", ["1.005", 1.005, None, True, [1]])
def test_what_does_not_fit_is_left_for_the_one_who_refuses_it(value: object) -> None:
    for column in (numeric(9, 2), ColumnType("numeric", -1, is_array=False, labels=())):
        settle = codec_for(Decimal, column).settle
        assert settle is not None
        assert settle(value) is value


def test_a_key_is_read_from_text_and_settled() -> None:
    read = key_reader(Money, codec_for(Money, numeric(9, 1)))
    assert [str(read(key)) for key in ("1", Decimal("1.04"), 1)] == ["1.0", "1.0", "1.0"]
    with pytest.raises(UnfitError, match="'one', which cannot be read as Decimal"):
        read("one")


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("do not ask")


@pytest.mark.parametrize(
    ("value", "words"),
    [("a", "'a'"), (None, "None"), (Rude(), "a Rude"), ((1, Rude()), "(1, a Rude)"), ("x" * 100, f"'{'x' * 59}…")],
)
def test_a_value_is_described_briefly_and_without_asking_it(value: object, words: str) -> None:
    assert described(value) == words

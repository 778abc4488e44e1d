"""Which annotations fit which columns, and how their values travel (see ``row_codec``).

Called by ``row_fit`` before the first event.

Values are written as JSON (text, numbers, booleans, null), and the server gives them their types by a cast.  It never
names a length: an explicit cast to ``varchar(3)`` cuts off what an assignment refuses.
"""

import enum
import operator
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from functools import partial
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from projectiond.kinds.row_annotation import members_of, split_optional, unwrap
from projectiond.kinds.row_codec import Change, Codec, UnfitError, described
from projectiond.kinds.row_json import json_codec

# What each type of column holds in Python.  An int also fits numeric(n), and an Enum or a Literal what its values fit.
HOLDS: Final[dict[str, type]] = {
    "uuid": UUID,
    "text": str,
    "varchar": str,
    "bpchar": str,
    "enum": str,
    "int2": int,
    "int4": int,
    "int8": int,
    "numeric": Decimal,
    "float8": float,
    "bool": bool,
    "date": date,
    "time": time,
    "timestamp": datetime,
    "timestamptz": datetime,
    "interval": timedelta,
    "bytea": bytes,
}
JSON: Final = frozenset({"json", "jsonb"})

# Of these two values are the same in Python if and only if they are for PostgreSQL.
KEYS: Final = frozenset(HOLDS) - {"float8", "interval"}

# Instead of types that we do not know how to bring back exactly.
INSTEAD: Final = {
    "float4": "double precision",
    "timetz": "timestamptz",
    "money": "numeric",
    "name": "text",
    "char": "text",
    "citext": "text",
}

_ANY_PRECISION: Final = -1
_MICROSECONDS: Final = 6
# What PostgreSQL adds to a length, or to a precision and a scale, to make the modifier.
_HEADER: Final = 4

# Precise enough for every numeric(p, s); PostgreSQL rounds halves away from zero.
_ROUNDING: Final = Context(prec=2000, rounding=ROUND_HALF_UP)


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type of a column; of a domain, the type that it stands for."""

    name: str
    """As PostgreSQL's catalogue has it, such as "int4"; "enum" for every enumeration; of an array, its elements'."""

    modifier: int
    """Length, precision and scale, or -1."""

    is_array: bool
    labels: tuple[str, ...]
    """Of an enumeration."""


def codec_for(annotation: Any, column: ColumnType) -> Codec:  # noqa: ANN401 - a type form
    """Give the codec of a field, annotated without None, and a column.

    Raises:
        UnfitError: They do not fit; it says what to write.
    """
    if column.name in JSON and not column.is_array:
        return json_codec(annotation)
    if column.name not in HOLDS or (column.name == "bpchar" and column.modifier < 0):
        raise UnfitError(f"a row cannot hold this type; make the column {INSTEAD.get(column.name, 'text')}")
    if column.name in {"time", "timestamp", "timestamptz"} and column.modifier not in {_ANY_PRECISION, _MICROSECONDS}:
        raise UnfitError("the column would round; declare it without a precision")
    if column.name == "numeric" and (_scale(column.modifier) or 0) < 0:
        raise UnfitError("the column would round to tens; declare it with a scale of 0 or more")
    if column.name == "interval" and column.modifier != _ANY_PRECISION:
        raise UnfitError("the column would round; declare it without fields or precision")
    core = unwrap(annotation)
    if not column.is_array:
        return _scalar_codec(core, column)
    if typing.get_origin(core) is not list:
        raise UnfitError(f'write "list[{HOLDS[column.name].__name__}]"')
    element, has_none = split_optional(typing.get_args(core)[0])
    return _array_codec(_scalar_codec(unwrap(element), column, array="list[{}]"), has_none=has_none)


def key_reader(annotation: Any, codec: Codec) -> Change:  # noqa: ANN401 - a type form
    """Give what turns a value that `key` returned into the key field's, or raises UnfitError.

    Two values that the database takes for the same key have to be the same key here too.  So each gets the field's
    own type and its settled form.  Text is read as that type, for that is how JSON has identifiers and dates.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(unwrap(annotation))
    (kind,) = codec.types or (object,)

    def read(value: Any) -> Any:  # noqa: ANN401 - whatever the author's code returned
        if type(value) is not kind:
            value = _converted(value, kind, adapter)
        if codec.settle is not None:
            value = codec.settle(value)
        codec.dumped(value)
        if kind is Decimal and not value.is_finite():
            raise UnfitError("is not a finite number")
        return value

    return read


def _converted(value: object, kind: type, adapter: TypeAdapter[Any]) -> Any:  # noqa: ANN401 - of that type
    if isinstance(value, str):
        # Of a member of an Enum of strings: its text.
        text = str.__str__(value)
        try:
            return adapter.validate_strings(text)
        except ValidationError:
            raise UnfitError(f"is {described(text)}, which cannot be read as {kind.__name__}") from None
    if isinstance(value, int) and not isinstance(value, bool) and kind in {int, Decimal}:
        return kind(value)
    raise UnfitError(f"is {described(value)}, which is no {kind.__name__}")


# --- scalars


def _scalar_codec(core: Any, column: ColumnType, *, array: str = "{}") -> Codec:  # noqa: ANN401 - a type form
    holds = HOLDS[column.name]
    members = members_of(core)
    carried = {type(member) for member in members} or {core}
    is_integral = column.name == "numeric" and _scale(column.modifier) == 0 and carried == {int}
    if carried != {holds} and not is_integral:
        raise UnfitError(f'write "{array.format(holds.__name__)}"')
    codec = Codec(frozenset({int}), load=int) if is_integral else _plain_codec(column)
    for member in members:
        is_label = not column.labels or member in column.labels
        if not is_label or (codec.settle is not None and codec.settle(member) != member):
            raise UnfitError(f"the column cannot hold {described(member)}; add it there, or take it out of the class")
    if not (isinstance(core, type) and members):
        return codec
    return Codec(
        types=frozenset({core}),
        suffix=codec.suffix,
        load=partial(_member, core),
        dump=operator.attrgetter("value"),
        is_loaded_plain=False,
    )


def _plain_codec(column: ColumnType) -> Codec:
    suffix = ""
    load: Change | None = None
    settle: Change | None = None
    dump: Change | None = None
    match column.name:
        case "enum":
            suffix = "::text[]" if column.is_array else "::text"
        case "varchar" if column.modifier >= 0:
            settle = partial(_without_surplus_blanks, column.modifier - _HEADER)
        case "bpchar":
            settle = partial(_padded, column.modifier - _HEADER)
        case "numeric":
            settle = _decimal_settler(_scale(column.modifier))
        case "float8":
            settle = _as_float
        case "timestamptz":
            load, settle, dump = _in_utc, _in_utc, _checked_aware
        case "timestamp" | "time":
            dump = _checked_naive
        case "interval":
            dump = _interval_text
        case "bytea":
            dump = _bytea_text
    return Codec(frozenset({HOLDS[column.name]}), suffix, load, settle, dump)


def _scale(modifier: int) -> int | None:
    """Give the s of numeric(p, s), which may be negative; None without one."""
    return None if modifier < 0 else (((modifier - _HEADER) & 0x7FF) ^ 0x400) - 0x400


def _decimal_settler(scale: int | None) -> Change:
    return _canonical if scale is None else partial(_rounded, Decimal(1).scaleb(-scale))


def _member(kind: type[enum.Enum], value: object) -> enum.Enum:
    try:
        return kind(value)
    except ValueError:
        raise UnfitError(f"is {described(value)}, which is no {kind.__name__}") from None


def _without_surplus_blanks(length: int, value: Any) -> Any:  # noqa: ANN401 - see Codec.settle, here and below
    if type(value) is str and len(value) > length:
        return value[:length] + value[length:].rstrip(" ")
    return value


def _padded(length: int, value: Any) -> Any:  # noqa: ANN401
    return _without_surplus_blanks(length, value).ljust(length) if type(value) is str else value


def _rounded(unit: Decimal, value: Any) -> Any:  # noqa: ANN401
    if type(value) is int:
        value = Decimal(value)
    elif type(value) is not Decimal:
        return value
    if not value.same_quantum(unit):
        try:
            value = value.quantize(unit, context=_ROUNDING)
        except InvalidOperation:  # too large, or infinite: PostgreSQL will say so
            return value
    # There is no negative zero.
    return value or abs(value)


def _canonical(value: Any) -> Any:  # noqa: ANN401
    if type(value) is int:
        return Decimal(value)
    if type(value) is Decimal:
        exponent = value.as_tuple().exponent
        if type(exponent) is int and exponent > 0:
            value = Decimal(f"{value:f}")
        return value or abs(value)
    return value


def _as_float(value: Any) -> Any:  # noqa: ANN401
    return float(value) if type(value) is int else value


def _in_utc(value: Any) -> Any:  # noqa: ANN401
    if type(value) is datetime and value.tzinfo is not UTC and value.tzinfo is not None:
        return value.astimezone(UTC)
    return value


def _checked_aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise UnfitError("is a datetime without a time zone; give it one")
    return value


def _checked_naive(value: datetime | time) -> datetime | time:
    if value.tzinfo is not None:
        raise UnfitError(f"is a {type(value).__name__} with a time zone, which the column would drop; take it off")
    return value


def _interval_text(value: timedelta) -> str:
    # With all its signs, so that it means the same in every IntervalStyle.
    return f"{value.days:+d} days {value.seconds:+d} seconds {value.microseconds:+d} microseconds"


def _bytea_text(value: bytes) -> str:
    return rf"\x{value.hex()}"


# --- arrays


def _array_codec(element: Codec, *, has_none: bool) -> Codec:
    return Codec(
        types=frozenset({list}),
        suffix=element.suffix,
        # A list of its own in any case: the one from the driver is kept, to see what has changed.
        load=list if element.load is None else partial(_each, element.load),
        settle=None if element.settle is None else partial(_settled_list, element.settle),
        dump=partial(_array_text, element, has_none=has_none),
        is_loaded_plain=False,
    )


def _each(change: Change, values: Sequence[Any]) -> list[Any]:
    return [None if value is None else change(value) for value in values]


def _settled_list(settle: Change, values: Any) -> Any:  # noqa: ANN401
    return _each(settle, values) if type(values) is list else values


def _array_text(element: Codec, values: list[Any], *, has_none: bool) -> str:
    """Write an array as PostgreSQL reads it, every element quoted."""
    if not has_none and None in values:
        raise UnfitError("is a list with None in it, which its annotation does not allow")
    texts = ("NULL" if value is None else _quoted(str(element.dumped(value))) for value in values)
    return "{" + ",".join(texts) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

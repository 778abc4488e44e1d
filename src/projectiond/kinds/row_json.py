"""How a field travels to a ``json`` or ``jsonb`` column: any JSON, or what pydantic makes of the annotation.

None is SQL's NULL.  Whether a value survives is seen by making it from its own JSON again, and comparing.
"""

import typing
from functools import partial
from typing import Any, Final

from pydantic import JsonValue, TypeAdapter
from pydantic_core import PydanticSerializationError, from_json, to_json

from projectiond.kinds.row_annotation import unwrap
from projectiond.kinds.row_codec import Codec, UnfitError

# Annotations that say no more than "some JSON": validating it would take time and find nothing.
_ANY_JSON: Final[tuple[object, ...]] = (
    *(Any, object, dict, list),
    *(dict[str, Any], list[Any], dict[str, JsonValue], list[JsonValue]),
)
_JSON_TYPES: Final = frozenset({dict, list, str, int, float, bool})
_MAX_SHOWN: Final = 200


def json_codec(annotation: Any) -> Codec:  # noqa: ANN401 - a type form
    """Give the codec of a field, annotated without None.

    Raises:
        UnfitError: pydantic cannot make such values.
    """
    core = unwrap(annotation)
    if core in _ANY_JSON:
        kind = typing.get_origin(core) or core
        kinds = frozenset({kind}) if kind in {dict, list} else _JSON_TYPES
        return Codec(kinds, suffix="::text", load=from_json, dump=_json_text, is_loaded_plain=False)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.rebuild(raise_errors=True)
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise UnfitError(f"pydantic cannot make it from JSON ({type(error).__name__}: {reason})") from error
    kind = typing.get_origin(core)
    return Codec(
        types=frozenset({kind}) if kind in {dict, list} else None,
        suffix="::text",
        load=adapter.validate_json,
        dump=partial(_typed_json_text, adapter),
        is_loaded_plain=False,
    )


def _json_text(value: object) -> str:
    try:
        text = to_json(value)
        is_kept = bool(from_json(text) == value)
    except (PydanticSerializationError, ValueError) as error:
        raise UnfitError(f"holds what JSON cannot: {str(error)[:_MAX_SHOWN]}") from None
    if not is_kept:
        raise UnfitError(
            "holds what JSON does not give back as it was (a tuple, a set, a date, NaN, a key that is no text)"
        )
    return text.decode()


def _typed_json_text(adapter: TypeAdapter[Any], value: object) -> str:
    try:
        text = adapter.dump_json(value, by_alias=True, round_trip=True, warnings="error")
        is_kept = bool(adapter.validate_json(text) == value)
    except (PydanticSerializationError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UnfitError(
            f"holds what JSON cannot, or what its annotation does not allow: {reason[:_MAX_SHOWN]}"
        ) from None
    if not is_kept:
        raise UnfitError("holds what JSON does not give back as it was")
    return text.decode()

"""The sentences that say what is wrong with a setting, in an operator's words.

Called by load_settings for each fault that pydantic found and for each unknown environment variable. A
sentence names the setting, its value, where it came from and what it must be. The database's address is never
shown, since it may hold a password; nor are values of unknown settings.
"""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from pydantic_core import ErrorDetails

from projectiond.settings_secrets import SECRETS

# Longer values tell no more about what is wrong.
MAX_VALUE_SHOWN: Final = 60

# Below this likeness (difflib's ratio) the nearest name would mislead; all names are listed then.
MIN_LIKENESS: Final = 0.5

# By the first word of pydantic's error type: int_parsing, bool_type, model_type, ...
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list of directories",
    "path": "a list of directories",
    "dict": "a table of settings",
    "model": "a table of settings",
}


def sentence_of_fault(detail: ErrorDetails, *, origin: str, known: Sequence[str]) -> str:
    """Word one fault that pydantic found.

    Args:
        detail: pydantic's account of it.
        origin: where the value came from: a variable or a file.
        known: the names that are known at that place.
    """
    if not detail["loc"]:
        return f"{_requirement(detail)} ({origin})"
    name, of_projection = _name_of(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return sentence_of_unknown("setting", name, known=known, where=f"{of_projection} in {origin}")
    if name in SECRETS:
        return f"{name} in {origin} {_requirement(detail)}"
    return f"{name}{of_projection} is {shown(detail['input'])} in {origin}: {_requirement(detail)}"


def sentence_of_unknown(kind: str, name: str, *, known: Sequence[str], where: str = "") -> str:
    """Word an unknown name, with the nearest known one."""
    nearest = get_close_matches(name, known, n=1, cutoff=MIN_LIKENESS)
    advice = f"the nearest known one is {shown(nearest[0])}" if nearest else f"known are {', '.join(known)}"
    return f"unknown {kind} {shown(name)}{where}: {advice}"


def shown(value: object) -> str:
    """Return a value as it would stand in a TOML file, cut, and safe for a terminal."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    if not text.isprintable():
        text = json.dumps(value, default=str)
    return text if len(text) <= MAX_VALUE_SHOWN else f"{text[:MAX_VALUE_SHOWN]}…"


def _name_of(location: tuple[int | str, ...]) -> tuple[str, str]:
    match location:
        case ("projection", projection, name, *_):
            return str(name), f" of projection {shown(projection)}"
        case ("projection", projection):
            return f"projection {shown(projection)}", ""
        case _:
            return str(location[0]), ""


def _requirement(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:.0f}"
        case "literal_error":
            return f"must be {context['expected']}".replace("'", '"')
        case "value_error":
            return str(context["error"])
        case kind:
            expected = _KINDS.get(kind.partition("_")[0])
            return f"must be {expected}" if expected else detail["msg"].lower()

"""What can be the type of an event: found out before a projection waits for one that can never arrive.

Called where authors name types, in `@handles` and in `event_types`.
"""

from typing import Final

# event_type is VARCHAR(100): a longer one can never arrive.
MAX_EVENT_TYPE: Final = 100


def find_fault(event_type: object) -> str | None:
    """Say why this is no event type, or None when it is one."""
    if not isinstance(event_type, str):
        return f"event type {event_type!r} is not a string"
    if not event_type:
        return "an event type is empty"
    if len(event_type) > MAX_EVENT_TYPE:
        return (
            f"event type {event_type[:40]!r}… has {len(event_type)} characters; "
            f"the event store holds at most {MAX_EVENT_TYPE}"
        )
    if "\0" in event_type or _is_unencodable(event_type):
        return f"event type {event_type!r} has characters that PostgreSQL cannot store"
    return None


def _is_unencodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

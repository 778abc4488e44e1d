"""Names and numbers in paths."""

from typing import Final

from starlette.convertors import IntegerConvertor, PathConvertor, register_url_convertor


class _Name(PathConvertor):
    """A projection's: whatever somebody has put into the table, also slashes and ends of lines."""

    # But NUL, which PostgreSQL has in no text.
    regex = r"[^\x00]+"


class _Number(IntegerConvertor):
    """An event's: Python refuses to read one of thousands of digits."""

    regex = r"[0-9]{1,19}"


register_url_convertor("projection", _Name())
register_url_convertor("event", _Number())

NAME: Final = "{name:projection}"
NUMBER: Final = "{number:event}"

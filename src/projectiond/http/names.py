"""Names of projections in paths: whatever somebody has put into the table, also slashes and ends of lines."""

from typing import Final

from starlette.convertors import PathConvertor, register_url_convertor


class _Name(PathConvertor):
    # But NUL, which PostgreSQL has in no text.
    regex = r"[^\x00]+"


register_url_convertor("projection", _Name())

NAME: Final = "{name:projection}"

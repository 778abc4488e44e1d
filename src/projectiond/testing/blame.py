"""Whose code an error came from: what a test shows of a failure is the author's part of it."""

from pathlib import Path
from typing import Final

import projectiond

_OURS: Final = Path(projectiond.__file__).parent


def of_author(error: BaseException | None) -> BaseException | None:
    """Give what the author's code raised, with the author's part of its traceback; None if there is none."""
    rest = error.__traceback__ if error else None
    while rest is not None and Path(rest.tb_frame.f_code.co_filename).is_relative_to(_OURS):
        rest = rest.tb_next
    return error.with_traceback(rest) if error and rest else None

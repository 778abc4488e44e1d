"""The exposition: samples of the declared families, in Prometheus' text format.

Fifty projections have four thousand samples, and whoever monitors asks again and again.  So a sample becomes a line at
once, and no object.  Source: the Prometheus documentation, Exposition formats, Text-based format.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from projectiond.http.families import FAMILIES, Family

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX: Final = "projectiond_"
_BY_NAME: Final[Mapping[str, Family]] = {family.name.removeprefix(_PREFIX): family for family in FAMILIES}
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Exposition:
    """Filled in, then written."""

    def __init__(self) -> None:
        # By family, without the prefix; a family's lines have to be together.
        self._lines: dict[str, list[str]] = {}

    def add(self, name: str, number: float | None, *labels: str) -> None:
        """Add a sample of a gauge or a counter; ``None``: it is not known, and its family is only declared."""
        lines = self._lines_of(name)
        if number is not None:
            lines.append(f"{_PREFIX}{name}{_labels(_BY_NAME[name].labels, labels)} {_number(number)}\n")

    def add_histogram(
        self, name: str, bounds: Sequence[float], counts: Iterable[int], total: float, *labels: str
    ) -> None:
        """Add a histogram.

        Args:
            name: Of its family.
            bounds: The buckets' upper bounds; one more bucket follows, which has none.
            counts: Of each bucket, not cumulated.
            total: The sum of what was observed.
            labels: As the family has them.
        """
        lines = self._lines_of(name)
        own = _labels(_BY_NAME[name].labels, labels)
        beginning = f'{_PREFIX}{name}_bucket{own[:-1]},le="'
        count = 0
        # With a point, for Prometheus 3 writes bounds so: "1" and "1.0" would be two series to others.
        for bound, more in zip([*map(repr, map(float, bounds)), "+Inf"], counts, strict=True):
            count += more
            lines.append(f'{beginning}{bound}"}} {count}\n')
        lines.append(f"{_PREFIX}{name}_count{own} {count}\n{_PREFIX}{name}_sum{own} {_number(total)}\n")

    def text(self) -> bytes:
        """Write it."""
        return "".join(line for lines in self._lines.values() for line in lines).encode()

    def _lines_of(self, name: str) -> list[str]:
        lines = self._lines.get(name)
        if lines is None:
            family = _BY_NAME[name]
            head = f"# HELP {family.name} {family.meaning}\n# TYPE {family.name} {family.type}\n"
            lines = self._lines[name] = [head]
        return lines


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True))
    return f"{{{','.join(pairs)}}}"


def _number(number: float) -> str:
    if math.isfinite(number):
        return repr(float(number))
    return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"

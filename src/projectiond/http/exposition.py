"""The exposition: samples of the declared families, in Prometheus' text format by its own library.

Fifty projections have four thousand samples, which take the library some twenty milliseconds.  So it is written at most
once a second, for all who ask (``kept``).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from projectiond.http.families import FAMILIES, Family

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_PREFIX: Final = "projectiond_"
_BY_NAME: Final[Mapping[str, Family]] = {family.name.removeprefix(_PREFIX): family for family in FAMILIES}

_Metric: TypeAlias = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
_MAKE: Final = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}


class Exposition(Collector):
    """Filled in, then written."""

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric] = {}

    def add(self, name: str, number: float | None, *labels: str) -> None:
        """Add a sample of a gauge or a counter; ``None``: it is not known, and its family is only declared."""
        metric = self._metric(name)
        if number is not None and not isinstance(metric, HistogramMetricFamily):
            metric.add_metric(labels, float(number))

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
        metric = self._metric(name)
        buckets: list[tuple[str, float]] = []
        count = 0
        # With a point, for Prometheus 3 writes bounds so: "1" and "1.0" would be two series to others.
        for bound, more in zip([*map(repr, map(float, bounds)), "+Inf"], counts, strict=True):
            count += more
            buckets.append((bound, float(count)))
        if isinstance(metric, HistogramMetricFamily):
            metric.add_metric(labels, buckets, total)

    def collect(self) -> Iterable[_Metric]:
        """Give what was added, to the library."""
        return self._metrics.values()

    def text(self) -> bytes:
        """Write it."""
        return generate_latest(self)

    def _metric(self, name: str) -> _Metric:
        if name not in self._metrics:
            family = _BY_NAME[name]
            self._metrics[name] = _MAKE[family.type](family.name, family.meaning, labels=family.labels)
        return self._metrics[name]

"""Reading figures: of a part under test, and as Prometheus would scrape them."""

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from stitchwork.telemetry.metrics import PREFIX, Metrics

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def sample_value(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of one series, by its name without the prefix; it must be there."""
    registry: CollectorRegistry = metrics.registry
    found = registry.get_sample_value(PREFIX + name, labels)
    assert found is not None, f"no series {name} {labels}"
    return found


class Scrape:
    """All series that an address shows at one moment."""

    def __init__(self, url: str) -> None:
        answer = httpx.get(url, timeout=30)
        assert answer.status_code == 200, answer.text
        self.text = answer.text
        self.families = {f.name: f for f in text_string_to_metric_families(answer.text)}
        self.series: Series = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all series of this name, without the prefix, that have these labels."""
        wanted = labels.items()
        found = [
            value
            for (known, having), value in self.series.items()
            if known == PREFIX + name and wanted <= having
        ]
        assert found, f"no series {name} {labels}"
        return sum(found)

"""Reading metrics: of an object under test, and of an address as Prometheus scrapes it."""

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from stitchwork.telemetry.metrics import PREFIX, Metrics
from tests.support import machine

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def sample_value(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of one series, by its name without the prefix; it must exist."""
    registry: CollectorRegistry = metrics.registry
    value = registry.get_sample_value(PREFIX + name, labels)
    assert value is not None, f"no series {name} {labels}"
    return value


class Scrape:
    """All series of an address at one moment."""

    def __init__(self, url: str) -> None:
        response = httpx.get(url, timeout=machine.deadline(30))
        assert response.status_code == 200, response.text
        self.text = response.text
        self.families = {f.name: f for f in text_string_to_metric_families(response.text)}
        self.series: Series = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all series of this name, without the prefix, that have these labels."""
        expected = labels.items()
        values = [
            value
            for (series, present), value in self.series.items()
            if series == PREFIX + name and expected <= present
        ]
        assert values, f"no series {name} {labels}"
        return sum(values)

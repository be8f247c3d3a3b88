"""How often and how long this process has run each model of the Open Inference Protocol."""

import time
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

MAX_MODELS: Final = 1000
"""Models with statistics; of more, those that were used last."""


@dataclass(slots=True)
class ModelCounts:
    """The requests of one model.

    Attributes:
        successes: Number of requests that were answered.
        success_ns: Their time, in nanoseconds.
        failures: Number of requests that failed.
        failure_ns: Their time, in nanoseconds.
        inputs: Number of inputs of the requests that were answered.
        last_ms: Time of the last request, in milliseconds since the epoch.
    """

    successes: int = 0
    success_ns: int = 0
    failures: int = 0
    failure_ns: int = 0
    inputs: int = 0
    last_ms: int = 0


class InferenceStatistics:
    """Counts of each model since this process started. Used by the event loop only."""

    def __init__(self) -> None:
        self._models: LRUCache[str, ModelCounts] = LRUCache(MAX_MODELS)

    def record(self, model: str, seconds: float, inputs: int | None) -> None:
        """Count a request.

        Args:
            model: Name of the model.
            seconds: Its duration.
            inputs: Number of its inputs; None if it failed.
        """
        counts = self._models.get(model)
        if counts is None:
            counts = self._models[model] = ModelCounts()
        counts.last_ms = time.time_ns() // 1_000_000
        if inputs is None:
            counts.failures += 1
            counts.failure_ns += int(seconds * 1e9)
        else:
            counts.successes += 1
            counts.success_ns += int(seconds * 1e9)
            counts.inputs += inputs

    def of(self, model: str) -> ModelCounts:
        """The counts of a model, which are zero if it was not used."""
        return self._models.get(model) or ModelCounts()

    @property
    def names(self) -> list[str]:
        """The models that were used."""
        return sorted(self._models)

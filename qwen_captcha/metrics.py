"""What the service counts and measures, for Prometheus.

Responsible for: every metric with its name and labels, and the text that `/metrics` answers.
Invariants: names start with `qwen_captcha_`, a label has few values and none comes from an image,
and the numbers are those of all workers together.

Under gunicorn the environment names a folder (PROMETHEUS_MULTIPROC_DIR, read by
prometheus_client), where the workers share their numbers; else one process has them in memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client import values as prometheus_values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

NAMESPACE = "qwen_captcha"
# A cached answer takes a millisecond, a 72B model on CPUs takes minutes.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
# Of the process metrics, those that are not added up over the workers.
MIN_ACROSS_WORKERS = ("process_start_time_seconds", "process_max_fds")

# A second gauge for every counter, of no use to anybody here.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """What is measured of the queue in front of one model, and of its batches."""

    inference_seconds: Histogram
    batch_size: Histogram
    depth: Gauge


@dataclass(frozen=True, slots=True)
class CascadeMetrics:
    """What is measured of second opinions."""

    answers: Counter
    missed: Counter
    gain: Counter
    queue: QueueMetrics


class Metrics:
    """The metrics of one service; thread-safe."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter(
            "requests", "HTTP requests answered, by route and status.", "route", "status"
        )
        self.request_seconds = self._histogram(
            "request_seconds",
            "Seconds from the head of a request to its reply, by route.",
            SECONDS,
            "route",
        )
        self.requests_in_flight = self._gauge(
            "requests_in_flight", "HTTP requests being served, the scrape included.", "livesum"
        )
        self.rejections = self._counter(
            "refusals",
            "Requests, and images of a batch, that were answered with an error, by its type.",
            "reason",
        )
        self.answers = self._counter(
            "answers",
            "Images that the model, or the cache, gave an answer to, by the kind asked for and "
            "by whether there was a usable one (answered, no_answer).",
            "kind",
            "outcome",
        )
        self.confidence = self._histogram(
            "answer_confidence", "Confidence of usable answers.", PROBABILITIES
        )
        self.cache = self._counter(
            "cache", "Answers by what the cache did: hit, miss, or off.", "result"
        )
        self.queue_seconds = self._histogram(
            "queue_seconds", "Seconds that an image waited for the model.", SECONDS
        )
        self.queue = self._queue_metrics("", "the model")
        self.cascade = CascadeMetrics(
            answers=self._counter(
                "cascade_answers",
                "Answers of a cascade: kept (sure enough), agreed (both readers said the same), "
                "first or second (they differed, and whose counted), alone (beyond the first "
                "reader), missed (the second reader gave none).",
                "outcome",
            ),
            missed=self._counter(
                "cascade_missed", "Second opinions that were not given, by reason.", "reason"
            ),
            gain=self._counter(
                "cascade_gain",
                "Sum of the confidence that second opinions added: how many more answers are "
                "right, if the confidences are calibrated.",
            ),
            queue=self._queue_metrics("cascade_", "the second model"),
        )
        self.collected = self._counter(
            "collected",
            "Answers and images by what COLLECT_DIR did with them: kept, removed (made room), "
            "rejected (no room beside labels), dropped (queue full), failed (not written).",
            "outcome",
        )
        self.feedback = self._counter(
            "feedback", "Feedback on answers that was written: correct, wrong.", "verdict"
        )
        self.model_info = self._gauge(
            "model_info",
            "1 for the model that is loaded.",
            "livemax",
            "model",
            "backend",
            "device",
            "version",
        )
        # A worker's number of its own, by which the others know its process.
        self._workers = self._gauge("workers", "Processes that serve.", "liveall")
        self._workers.set(1)

    def render(self) -> bytes:
        """Return the numbers of all workers in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(AllWorkers(self._registry))
        return generate_latest(registry)

    def _queue_metrics(self, prefix: str, model: str) -> QueueMetrics:
        """Return what is measured of the queue in front of one model."""
        return QueueMetrics(
            inference_seconds=self._histogram(
                f"{prefix}inference_seconds",
                f"Seconds of one call of {model}, for a whole batch.",
                SECONDS,
            ),
            batch_size=self._histogram(
                f"{prefix}batch_size", f"Images in one call of {model}.", BATCH_SIZES
            ),
            depth=self._gauge(f"{prefix}queue_depth", f"Images that wait for {model}.", "livesum"),
        )

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, NAMESPACE, registry=self._registry)

    def _gauge(self, name: str, documentation: str, mode: str, *labels: str) -> Gauge:
        """Return a gauge; `mode` says how the values of several workers become one."""
        return Gauge(
            name,
            documentation,
            labels,
            NAMESPACE,
            registry=self._registry,
            multiprocess_mode=mode,  # type: ignore[arg-type]
        )

    def _histogram(
        self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, documentation, labels, NAMESPACE, registry=self._registry, buckets=buckets
        )


class AllWorkers(Collector):
    """The metrics of all workers, and those of their processes.

    Args:
        registry: The metrics of this process, which are all there are outside of gunicorn.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """Return all metrics; called for each scrape."""
        pids: list[str] = []
        for metric in self._own():
            if metric.name == f"{NAMESPACE}_workers":
                pids = [sample.labels.get("pid", "self") for sample in metric.samples]
                metric.samples = [metric.samples[0]._replace(labels={}, value=float(len(pids)))]
            yield metric
        yield from process_totals(pids)

    def _own(self) -> Iterable[Metric]:
        if prometheus_values.ValueClass is prometheus_values.MutexValue:
            return self._registry.collect()
        shared = MultiProcessCollector(None)  # type: ignore[no-untyped-call]
        return shared.collect()  # type: ignore[no-any-return, no-untyped-call]


def process_totals(pids: Iterable[str]) -> list[Metric]:
    """Return CPU time, memory and open files of some processes together."""
    totals: dict[str, Metric] = {}
    for pid in pids:
        collector = ProcessCollector(NAMESPACE, partial(str, pid), registry=None)
        for metric in collector.collect():
            known = totals.setdefault(metric.name, metric)
            if known is not metric:
                add: Callable[[float, float], float] = (
                    min if metric.name.endswith(MIN_ACROSS_WORKERS) else operator.add
                )
                [one], [other] = known.samples, metric.samples
                known.samples = [one._replace(value=add(one.value, other.value))]
    return list(totals.values())

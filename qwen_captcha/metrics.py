"""The metrics of the service, in Prometheus' text format.

Names start with `qwen_captcha_`. A label has few values, and none comes from an image. The numbers
are those of all workers together: under gunicorn the environment names a folder
(PROMETHEUS_MULTIPROC_DIR, read by prometheus_client) where the workers share them; otherwise one
process holds them in memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
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
# Metrics of the processes, and their meaning over all workers.
PROCESS_METRICS: Mapping[str, str] = {
    "process_cpu_seconds": "CPU time of the workers.",
    "process_resident_memory_bytes": "Memory that the workers hold.",
    "process_virtual_memory_bytes": "Address space of the workers.",
    "process_open_fds": "Open files and connections of the workers.",
    "process_max_fds": "Maximum open files of one worker.",
    "process_start_time_seconds": "Start of the first worker, in seconds since 1970.",
}
# Of these, the ones that are not added up over the workers.
MIN_ACROSS_WORKERS = ("process_start_time_seconds", "process_max_fds")

# A second gauge for every counter, which nothing reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """Metrics of the queue in front of one model, and of its batches."""

    inference_seconds: Histogram
    batch_size: Histogram
    depth: Gauge


@dataclass(frozen=True, slots=True)
class CascadeMetrics:
    """Metrics of the second reader's answers."""

    answers: Counter
    missed: Counter
    gain: Counter
    queue: QueueMetrics


@dataclass(frozen=True, slots=True)
class MetricDescription:
    """The declaration of one metric, for the documentation.

    Attributes:
        name: As `/metrics` shows it.
        type: Of Prometheus: counter, gauge or histogram.
        labels: Their names.
        help: The meaning, a sentence.
    """

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


class Metrics:
    """The metrics of one service; thread-safe.

    Attributes:
        descriptions: The declarations of all of them, those of the processes included.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.descriptions: list[MetricDescription] = []
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
            "rejections",
            "Requests, and images of a batch, that were answered with an error, by its type.",
            "reason",
        )
        self.answers = self._counter(
            "answers",
            "Images answered by the model or the cache, by the kind of the request and by whether "
            "the answer was usable (answered, no_answer).",
            "kind",
            "outcome",
        )
        self.confidence = self._histogram(
            "answer_confidence", "Confidence of usable answers.", PROBABILITIES
        )
        self.cache = self._counter(
            "cache", "Answers by the result of the cache: hit, miss, or off.", "result"
        )
        self.queue_seconds = self._histogram(
            "queue_seconds", "Seconds that an image waited for the model.", SECONDS
        )
        self.queue = self._queue_metrics("", "the model")
        self.cascade = CascadeMetrics(
            answers=self._counter(
                "cascade_answers",
                "Answers of a cascade: kept (the first reader's confidence is sufficient), agreed "
                "(both readers returned the same), first or second (they differed, and whose "
                "answer was returned), alone (the first reader cannot serve the request), missed "
                "(the second reader returned none).",
                "outcome",
            ),
            missed=self._counter(
                "cascade_missed", "Missing answers of the second reader, by reason.", "reason"
            ),
            gain=self._counter(
                "cascade_gain",
                "Sum of the confidence that the second reader added: the number of further right "
                "answers, if the confidences are calibrated.",
            ),
            queue=self._queue_metrics("cascade_", "the second model"),
        )
        self.collected = self._counter(
            "collected",
            "Answers and images by what happened to them in COLLECT_DIR: kept, removed (for newer "
            "ones), rejected (labels fill the limit), dropped (queue full), failed (not written).",
            "outcome",
        )
        self.feedback = self._counter(
            "feedback", "Feedback on answers that was stored: correct, wrong.", "verdict"
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
        for name, help_text in PROCESS_METRICS.items():
            self._describe("counter" if name.endswith("cpu_seconds") else "gauge", name, help_text)

    def render(self) -> bytes:
        """Return the numbers of all workers in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(AllWorkers(self._registry))
        return generate_latest(registry)

    def _queue_metrics(self, prefix: str, model: str) -> QueueMetrics:
        """Return the metrics of the queue in front of one model."""
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

    def _describe(self, kind: str, name: str, help_text: str, *labels: str) -> None:
        """Add the declaration of a metric; Prometheus' name of a counter has a suffix."""
        full = f"{NAMESPACE}_{name}" + ("_total" if kind == "counter" else "")
        self.descriptions.append(MetricDescription(full, kind, labels, help_text))

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        self._describe("counter", name, documentation, *labels)
        return Counter(name, documentation, labels, NAMESPACE, registry=self._registry)

    def _gauge(self, name: str, documentation: str, mode: str, *labels: str) -> Gauge:
        """Return a gauge; `mode` combines the values of several workers into one."""
        self._describe("gauge", name, documentation, *labels)
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
        self._describe("histogram", name, documentation, *labels)
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
            metric.documentation = PROCESS_METRICS[metric.name.removeprefix(f"{NAMESPACE}_")]
            known = totals.setdefault(metric.name, metric)
            if known is not metric:
                add: Callable[[float, float], float] = (
                    min if metric.name.endswith(MIN_ACROSS_WORKERS) else operator.add
                )
                [one], [other] = known.samples, metric.samples
                known.samples = [one._replace(value=add(one.value, other.value))]
    return list(totals.values())

"""A span of OpenTelemetry for every batch, with its stages below it: off unless ``drainer.traces`` is on.

Where they go is OpenTelemetry's own business: ``OTEL_EXPORTER_OTLP_ENDPOINT`` and its kin. Spans are queued and sent by
a thread of the library; one that cannot be sent is dropped, and the drain neither waits nor knows.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.base.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.buffer.chunk import Chunk


class Stage(NamedTuple):
    """A stage of one batch, and when it ended."""

    name: str
    ended_ns: int
    seconds: float

    @property
    def began_ns(self) -> int:
        """Its start, as OpenTelemetry counts."""
        return self.ended_ns - int(self.seconds * 1e9)


def ended(name: str, seconds: float) -> Stage:
    """A stage that ends now."""
    return Stage(name, time.time_ns(), seconds)


class Traces:
    """Tells of batches through one tracer."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    def batch(self, chunk: Chunk, buffer: str, stages: Sequence[Stage]) -> None:
        """One acknowledged batch. Its span begins with its first stage; between stages it waited for its turn."""
        from opentelemetry import trace

        facts: dict[str, Any] = {
            "messaging.system": "redis",
            "messaging.destination.name": buffer,
            "messaging.batch.message_count": chunk.rows,
            "pipeline.segment": chunk.segment,
            "pipeline.chunk": chunk.number,
        }
        stages = _in_turn(stages)
        began_ns = min(stage.began_ns for stage in stages)
        span = self._tracer.start_span("pipeline.batch", start_time=began_ns, attributes=facts)
        below = trace.set_span_in_context(span)
        for stage in stages:
            part = self._tracer.start_span(f"pipeline.{stage.name}", below, start_time=stage.began_ns)
            part.end(stage.ended_ns)
        span.end(max(stage.ended_ns for stage in stages))


def _in_turn(stages: Sequence[Stage]) -> Sequence[Stage]:
    """The stages one after the other: the time for writing is known only after the ack."""
    ack_ns = next((stage.began_ns for stage in stages if stage.name == "ack"), None)
    if ack_ns is None:
        return stages
    return [stage._replace(ended_ns=ack_ns) if stage.name == "write" else stage for stage in stages]


@cache
def opened() -> Traces:
    """The traces of this process, sent by OTLP over HTTP. Raises ``ConfigError`` without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        raise ConfigError(
            "setting 'drainer.traces' needs OpenTelemetry: pip install 'metrics-pipeline[otel]'"
        ) from missing
    named = Resource.create({"service.name": "metrics-pipeline"})
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=2)))
    atexit.register(provider.shutdown)
    return Traces(provider.get_tracer("pipeline"))

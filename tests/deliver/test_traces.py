"""Spans of batches, sent by the real OpenTelemetry library to a collector that listens here."""

import gzip
import itertools
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import RedisServer, missing
from drain_parts import buffer_on, client_of, drain_store, drainer_on, good, push

from pipeline.deliver import traces
from pipeline.store.client import Store


@pytest.fixture
def embedded(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A fresh database with the drain's tables in this process's engine."""
    with drain_store(f"chdb://{engine_path}") as store:
        yield store


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What was sent to the address that OpenTelemetry's variables name."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    traces.opened.cache_clear()
    yield received
    traces.opened.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("redis_server", ["redis-7.0"], indirect=True)
def test_a_span_for_every_batch(
    redis_server: Callable[..., RedisServer], embedded: Store, collector: list[bytes]
) -> None:
    """Each acknowledged batch is one span with its stages below it in turn; with traces off nothing is sent."""
    try:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    except ImportError:
        missing("the extra otel is not installed")
    url = redis_server().url
    push(client_of(url), [good(number) for number in range(250)])
    assert drainer_on(buffer_on(url), embedded, traces=False).drain_until_empty().chunks == 3
    push(client_of(url), [good(number) for number in range(300, 450)])
    drainer = drainer_on(buffer_on(url), embedded, traces=True)
    assert drainer.drain_until_empty().chunks == 2
    assert drainer.traces is not None
    drainer.traces._tracer.span_processor.force_flush()
    spans = [
        span
        for body in collector
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    batches = [span for span in spans if span.name == "pipeline.batch"]
    sizes = [one.value.int_value for span in batches for one in span.attributes if one.key.endswith("message_count")]
    assert sorted(sizes) == [50, 100]
    for batch in batches:
        parts = sorted(
            (span for span in spans if span.parent_span_id == batch.span_id), key=lambda span: span.start_time_unix_nano
        )
        assert [span.name for span in parts][-3:] == ["pipeline.decode", "pipeline.write", "pipeline.ack"]
        assert {span.name for span in parts[:-3]} == {"pipeline.read"}
        for before, after in itertools.pairwise(parts):
            assert before.end_time_unix_nano <= after.start_time_unix_nano + 1_000_000
        assert batch.start_time_unix_nano <= parts[0].start_time_unix_nano
        assert batch.end_time_unix_nano >= parts[-1].end_time_unix_nano

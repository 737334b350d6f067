"""Benchmarks that need no ClickHouse run through on small numbers; their figures are for a quiet machine."""

from pipeline.base.config import Settings
from pipeline.bench import client, collect


def test_the_client_s_benchmark_counts_what_arrived() -> None:
    """Every metric that it pushed is in the buffer; a caller's cost and a rate are told."""
    told = client.run(Settings(), 3_000, lambda _: None)
    assert told["buffered"] == 3_000 + 400 * 501
    assert 0 < told["caller_us_min"] <= told["caller_us_median"]
    assert told["rows_per_s"] > 0


def test_the_collectors_benchmark_sees_every_key() -> None:
    """All keys of the platform's shape, foreign ones among them, without trouble."""
    told = collect.run(Settings(), 2_000, lambda _: None)
    assert told["keys"] >= 2_000
    assert told["trouble"] == []
    # Six numbers of each page's performance, and the gauges.
    assert told["items"] >= 5 * 20
    assert told["push_p99_ms"] > 0

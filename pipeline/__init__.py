"""Streaming metrics pipeline: from a Redis list into ClickHouse, exactly once.

::

    producers ──LPUSH──▶ metrics:buffer ──seal──▶ segment ──claim──▶ drainer ──▶ ClickHouse metrics
    (client, pytest plugin,   Redis db 3          immutable, named     decode, write,      │ raw rows, each with
     importers, collectors)                                            verify, ack         │ (segment, position)
                                                       refused ──▶ dead letters            ▼
         Redis hashes, lists, channels ◀── publish ── alerts ◀── baselines ◀── rollups 1min, 5min, web vitals

Imports point downstream; only ``operate`` and ``cli`` import from every folder:

- ``client``   what other teams install: the client, importers, the pytest plugin
- ``buffer``   the Redis list: seal, claim, ack
- ``decode``   bytes to Arrow columns, checked on the way
- ``deliver``  the drainer, spilling, the ledger, dead letters
- ``store``    the only place that talks to ClickHouse
- ``embedded`` an embedded Redis and ClickHouse engine, with its HTTP interface
- ``serve``    HTTP servers with bounds, and who may ask them
- ``web``      the page, metrics for Prometheus, health, metrics sent over HTTP
- ``analyse``  windows, quantiles, vitals, baselines, change points: pure, numpy in and out
- ``jobs``     scheduled work: read, compute, write
- ``alerts``   rules, states, evaluator, notify
- ``collect``  parts of the platform's Redis schema that are read
- ``operate``  service, schedule, status, audit, doctor
- ``cli``      the commands
- ``bench``    the benchmarks of ``pipeline bench``
- ``demo``     a simulated platform, and the whole pipeline on it
- ``base``     clock, settings, errors, log, connections to Redis

``pipeline/README.md`` says which file answers which question.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["MetricsClient", "__version__"]

if TYPE_CHECKING:
    from pipeline.client.producer import MetricsClient


def __getattr__(name: str) -> Any:
    """Import the client on first use, so that ``import pipeline`` stays light for the pytest plugin."""
    if name == "MetricsClient":
        from pipeline.client.producer import MetricsClient

        return MetricsClient
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")

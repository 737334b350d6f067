"""The audit: proves that the books balance, against ClickHouse itself.

Four questions. Do the counters add up (``unaccounted`` is 0)? Does every acknowledged chunk stand
in ClickHouse whole, once and unaltered (row count, distinct positions, digest)? Does ClickHouse hold
rows of a segment that Redis never acknowledged and does not know (a seal undone by a power cut)?
Is every hour and day the sum of its windows?

The audit only reads. A whole audit reads the raw table once; an incremental one looks at the chunks
acknowledged since the last, at the total row count, and at whether the table was altered.
When ClickHouse or Redis is away it raises the outage and has proved nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer
from pipeline.deliver.ledger import DIGEST_SQL, Record, pending_records
from pipeline.jobs.coarser import DAY_S
from pipeline.jobs.coarser_check import wrong_spans
from pipeline.store.client import Store
from pipeline.store.migrate import kept_hours

CHECKPOINT = "audit"
OVERLAP_MS = 600_000
"""An incremental audit looks back this far beyond the last one: acks of several drainers arrive out of order."""

EXPIRY_MARGIN_MS = 3_600_000
"""A timestamp may lie a few minutes after the sealing, and clocks differ."""

MAX_FINDINGS = 20
PENDING_PER_QUERY = 500


@dataclass(frozen=True)
class AuditFinding:
    """One thing that is wrong, in words, with where to look."""

    kind: str
    where: str
    detail: str


@dataclass
class AuditReport:
    """What an audit found; ``ok`` is what the exit code says."""

    books: Books
    scope: str
    since_ms: int = 0
    """What was acknowledged before is not looked at again; 0: everything is."""
    chunks: int = 0
    missing: int = 0
    duplicated: int = 0
    altered: int = 0
    unknown: int = 0
    wrong_spans: int = 0
    """Hours and days that are not the sum of their windows."""
    findings: list[AuditFinding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the books balance and every checked row is there once, as it was decoded."""
        wrong = self.missing or self.duplicated or self.altered or self.unknown or self.wrong_spans
        return not (self.books.unaccounted or wrong)

    def as_dict(self) -> dict[str, Any]:
        """The object that ``pipeline audit --json`` prints."""
        return {
            **self.books.as_dict(),
            "ok": self.ok,
            "scope": self.scope,
            "chunks": self.chunks,
            "missing": self.missing,
            "duplicated": self.duplicated,
            "altered": self.altered,
            "unknown": self.unknown,
            "wrong_spans": self.wrong_spans,
            "findings": [vars(finding) for finding in self.findings],
        }


def audit(store: Store, buffers: Sequence[Buffer], *, full: bool, now_ms: int) -> AuditReport:
    """Check the delivery, then hours and days; the next incremental audit begins where a clean one ended.

    Raises ``StoreOutage`` or ``RedisOutage``.
    """
    report = audit_delivery(store, buffers, full=full, now_ms=now_ms)
    _check_spans(store, report, now_ms)
    if report.ok:
        for buffer in buffers:
            buffer.save_checkpoint(CHECKPOINT, json.dumps({"at": now_ms, "mutations": _mutations(store)}))
    return report


def audit_delivery(store: Store, buffers: Sequence[Buffer], *, full: bool, now_ms: int) -> AuditReport:
    """Check the books of ``buffers`` against ``store``: what a drainer writes, and nothing that is computed from it.

    What is about to outlive the tables' retention, or has, is left out: rows, dead letters and ledger expire
    by right, each at its own pace. Raises ``StoreOutage`` or ``RedisOutage``.
    """
    kept = kept_hours(store)
    oldest_ms = 0 if kept is None else now_ms - kept * 3_600_000 + EXPIRY_MARGIN_MS
    # What ClickHouse has is read before what Redis knows: a chunk acknowledged in between is then known.
    in_clickhouse = _segments_in_clickhouse(store, oldest_ms)
    since_ms, reason = (0, "asked for") if full else _since(store, buffers, now_ms)
    if since_ms and _counts_differ(store, buffers, oldest_ms):
        since_ms, reason = 0, "the number of rows of a segment is not what was acknowledged"
    books = sum((buffer.books() for buffer in buffers), Books())
    scope = f"everything ({reason})" if since_ms == 0 else "acknowledged since the last audit"
    report = AuditReport(books=books, scope=scope, since_ms=since_ms)
    if books.unaccounted:
        _note(report, "unaccounted", "ledger", f"the counters differ by {books.unaccounted}")
    pending = [record for buffer in buffers for record in pending_records(buffer)]
    # Pending ones that have reached the ledger table are checked with it; those that reach it later, by themselves.
    known = _in_ledger(store, pending)
    _check_ledger(store, report, since_ms, oldest_ms)
    _check_pending(
        store, report, [record for record in pending if (record.segment, record.chunk) not in known], oldest_ms
    )
    _check_unknown(store, report, buffers, in_clickhouse, pending)
    return report


def _since(store: Store, buffers: Sequence[Buffer], now_ms: int) -> tuple[int, str]:
    """From when on chunks are checked; 0 (with why) when everything must be."""
    last_ms: list[int] = []
    for buffer in buffers:
        try:
            saved = buffer.checkpoint(CHECKPOINT)
            if not saved:
                return 0, "the first audit"
            checkpoint = json.loads(saved)
            at_ms, mutations = int(checkpoint["at"]), checkpoint["mutations"]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return 0, "what the last audit noted cannot be read"
        if at_ms > now_ms:
            return 0, "the time of the last audit lies in the future"
        if mutations != _mutations(store):
            return 0, "the table was altered by a statement since the last audit"
        last_ms.append(at_ms)
    return max(min(last_ms) - OVERLAP_MS, 1), ""


_COUNTS = """
SELECT expected.segment
FROM (SELECT segment, sum(stored) AS rows,
             max(stored > 0 AND min_timestamp <= fromUnixTimestamp64Milli({oldest_ms:Int64})) AS old
      FROM ledger GROUP BY segment) AS expected
GLOBAL LEFT JOIN (SELECT segment, count() AS rows FROM metrics GROUP BY segment) AS found
    ON found.segment = expected.segment
WHERE NOT expected.old AND expected.rows != found.rows
"""


def _counts_differ(store: Store, buffers: Sequence[Buffer], oldest_ms: int) -> bool:
    """Whether a finished segment has another number of rows than were acknowledged; reads one column of the table."""
    differing = {row[0] for row in store.rows(_COUNTS, {"oldest_ms": oldest_ms})}
    for buffer in buffers:
        # Of these a part is acknowledged and in the ledger table, another part is not yet.
        differing -= buffer.unfinished_segments()
        differing -= {record.segment for record in pending_records(buffer)}
    return bool(differing)


def _mutations(store: Store) -> int:
    """How many ALTER … UPDATE or DELETE the raw table has ever seen."""
    found = store.rows(
        "SELECT count() FROM system.mutations "
        "WHERE database = {database:String} AND table IN ('metrics', 'metrics_local')",
        {"database": store.database},
    )
    return int(found[0][0])


def _segments_in_clickhouse(store: Store, oldest_ms: int) -> dict[str, dict[str, int]]:
    """How many rows and dead letters of each segment there are, those whose ledger may have expired left out."""
    tables = (("rows", "metrics", "timestamp"), ("dead letters", "dead_letters", "refused_at"))
    return {
        what: dict(
            store.rows(
                f"SELECT segment, count() FROM {table} WHERE {at} > fromUnixTimestamp64Milli({{oldest_ms:Int64}}) "
                "GROUP BY segment",
                {"oldest_ms": oldest_ms},
            )
        )
        for what, table, at in tables
    }


_ACTUAL = f"""
    SELECT segment, intDiv(position, chunk_rows) AS chunk, count() AS found, uniqExact(position) AS distinct_found,
           {DIGEST_SQL} AS digest_found
    FROM metrics GLOBAL INNER JOIN chunks USING (segment)
    WHERE timestamp BETWEEN fromUnixTimestamp64Milli({{from_ms:Int64}}) AND fromUnixTimestamp64Milli({{to_ms:Int64}})
    GROUP BY segment, chunk
"""

_DEAD = """
    SELECT segment, intDiv(position, chunk_rows) AS chunk, count() AS found, uniqExact(position) AS distinct_found
    FROM dead_letters GLOBAL INNER JOIN chunks USING (segment) GROUP BY segment, chunk
"""

_COMPARE = f"""
WITH expected AS ({{expected}}),
     chunks AS (SELECT DISTINCT segment, chunk_rows FROM expected),
     actual AS ({_ACTUAL}),
     dead AS ({_DEAD})
SELECT e.segment, e.chunk, e.stored, e.dead_lettered, e.digest,
       actual.found, actual.distinct_found, actual.digest_found, dead.found, dead.distinct_found
FROM expected AS e
GLOBAL LEFT JOIN actual ON actual.segment = e.segment AND actual.chunk = e.chunk
GLOBAL LEFT JOIN dead ON dead.segment = e.segment AND dead.chunk = e.chunk
WHERE e.stored != actual.found OR actual.found != actual.distinct_found
   OR (e.digest != actual.digest_found AND e.digest != 0)
   OR e.dead_lettered != dead.found OR dead.found != dead.distinct_found
"""


def _check_ledger(store: Store, report: AuditReport, since_ms: int, oldest_ms: int) -> None:
    where = (
        "acked_at >= fromUnixTimestamp64Milli({since_ms:Int64}) "
        "AND sealed_at > fromUnixTimestamp64Milli({oldest_ms:Int64}) "
        "AND (stored = 0 OR min_timestamp > fromUnixTimestamp64Milli({oldest_ms:Int64}))"
    )
    parameters: dict[str, Any] = {"since_ms": since_ms, "oldest_ms": oldest_ms}
    bounds = store.rows(
        "SELECT count(), toUnixTimestamp64Milli(minIf(min_timestamp, stored > 0)), "
        f"toUnixTimestamp64Milli(maxIf(max_timestamp, stored > 0)) FROM ledger WHERE {where}",
        parameters,
    )
    count, from_ms, to_ms = bounds[0]
    report.chunks += count
    if count:
        # Only rows within these bounds are read, and chunks may have come to the table since they were asked for.
        within = (
            "stored = 0 OR (min_timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}) "
            "AND max_timestamp <= fromUnixTimestamp64Milli({to_ms:Int64}))"
        )
        expected = (
            f"SELECT segment, chunk, chunk_rows, stored, dead_lettered, digest FROM ledger WHERE {where} AND ({within})"
        )
        _compare(store, report, expected, {**parameters, "from_ms": from_ms, "to_ms": to_ms})


def _in_ledger(store: Store, pending: Sequence[Record]) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    for batch in _batches(pending):
        segments = sorted({record.segment for record in batch})
        found |= set(
            store.rows(
                "SELECT segment, chunk FROM ledger WHERE segment IN {segments:Array(String)}", {"segments": segments}
            )
        )
    return found


def _check_pending(store: Store, report: AuditReport, records: Sequence[Record], oldest_ms: int) -> None:
    """Chunks whose ledger rows are still on their way from Redis."""
    checked = [
        record
        for record in records
        if record.sealed_at > oldest_ms and (not record.stored or record.min_timestamp > oldest_ms)
    ]
    report.chunks += len(checked)
    for batch in _batches(checked):
        columns = {
            "segments": ("String", [record.segment for record in batch]),
            "numbers": ("UInt32", [record.chunk for record in batch]),
            "sizes": ("UInt32", [record.chunk_rows for record in batch]),
            "stored": ("UInt32", [record.stored for record in batch]),
            "dead": ("UInt32", [record.dead_lettered for record in batch]),
            "digests": ("UInt64", [record.digest for record in batch]),
        }
        zipped = ", ".join(f"{{{name}:Array({kind})}}" for name, (kind, _) in columns.items())
        expected = (
            "SELECT row.1 AS segment, row.2 AS chunk, row.3 AS chunk_rows, row.4 AS stored, row.5 AS dead_lettered, "
            f"row.6 AS digest FROM (SELECT arrayJoin(arrayZip({zipped})) AS row)"
        )
        stored = [record for record in batch if record.stored]
        parameters = {name: values for name, (_, values) in columns.items()} | {
            "from_ms": min((record.min_timestamp for record in stored), default=0),
            "to_ms": max((record.max_timestamp for record in stored), default=0),
        }
        _compare(store, report, expected, parameters)


def _batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), PENDING_PER_QUERY):
        yield records[start : start + PENDING_PER_QUERY]


def _compare(store: Store, report: AuditReport, expected: str, parameters: Mapping[str, Any]) -> None:
    for row in store.rows(_COMPARE.replace("{expected}", expected), parameters):
        segment, chunk, stored, dead, digest, found, distinct, found_digest, dead_found, dead_distinct = row
        where = f"segment {segment}, chunk {chunk}"
        for what, expected_rows, count, once in (
            ("rows", stored, found, distinct),
            ("dead letters", dead, dead_found, dead_distinct),
        ):
            if once < expected_rows:
                report.missing += expected_rows - once
                _note(report, "missing", where, f"{expected_rows - once} of {expected_rows} {what} are not there")
            if count > once:
                report.duplicated += count - once
                _note(report, "duplicated", where, f"{count - once} {what} stand more than once")
            if once > expected_rows:
                report.unknown += once - expected_rows
                _note(report, "unknown", where, f"{once - expected_rows} {what} were never acknowledged")
        if stored == found == distinct and digest not in (0, found_digest):
            report.altered += 1
            _note(report, "altered", where, "the rows are not those that were decoded")


def _check_unknown(
    store: Store,
    report: AuditReport,
    buffers: Sequence[Buffer],
    in_clickhouse: Mapping[str, Mapping[str, int]],
    pending: Sequence[Record],
) -> None:
    """Segments in ClickHouse that no Redis and no ledger knows: their seal was undone, their items came again."""
    known = {record.segment for record in pending}
    for buffer in buffers:
        known |= buffer.unfinished_segments()
    suspects = sorted({segment for counts in in_clickhouse.values() for segment in counts} - known)
    for start in range(0, len(suspects), 10_000):
        part = suspects[start : start + 10_000]
        recorded = {
            row[0]
            for row in store.rows(
                "SELECT DISTINCT segment FROM ledger WHERE segment IN {part:Array(String)}", {"part": part}
            )
        }
        for segment in part:
            if segment in recorded:
                continue
            for what, counts in in_clickhouse.items():
                if count := counts.get(segment, 0):
                    report.unknown += count
                    detail = f"{count} {what} of a segment that was never acknowledged here"
                    _note(report, "unknown", f"segment {segment}", detail)


def _check_spans(store: Store, report: AuditReport, now_ms: int) -> None:
    """All hours and days, or those since the day before the last audit."""
    from_s = max(report.since_ms // 1000 // DAY_S * DAY_S - DAY_S, 0)
    for span in wrong_spans(store, from_s, now_ms // 1000):
        report.wrong_spans += 1
        start = datetime.fromtimestamp(span.start_s, UTC)
        detail = "its rows are not the sum of its windows; 'pipeline rollup --from … --to …' over it writes them anew"
        _note(report, "wrong_spans", f"{span.table} at {start:%Y-%m-%dT%H:%MZ}", detail)


def _note(report: AuditReport, kind: str, where: str, detail: str) -> None:
    if len(report.findings) < MAX_FINDINGS:
        report.findings.append(AuditFinding(kind, where, detail))

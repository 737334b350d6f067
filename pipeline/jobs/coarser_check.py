"""Hours and days held against the windows they are merged from, for ``pipeline audit``.

Each span is compared by counts and by sums over its histograms, which add up without merging any. A span that
lacks some of its windows is left out: the job brings it up to date, and readers do without it until then.
When ClickHouse is away the outage is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.jobs.coarser import COARSE_TABLES, CoarseTable

if TYPE_CHECKING:
    from pipeline.store.client import Store

_ADDED_UP = frozenset(("samples", "total", "passed", "failed", "flaky", "retried", "good", "needs_improvement", "poor"))


@dataclass(frozen=True)
class WrongSpan:
    """An hour or a day whose rows are not the sum of what they are made of."""

    table: str
    start_s: int


def wrong_spans(store: Store, from_s: int, to_s: int) -> list[WrongSpan]:
    """Those that begin in [``from_s``, ``to_s``), the oldest first in each table."""
    return [
        WrongSpan(coarse.table, int(start))
        for coarse in COARSE_TABLES
        for (start,) in store.rows(_COMPARED.format(**_parts(coarse)), {"from": from_s, "to": to_s})
    ]


_COMPARED = """
SELECT span
FROM
(
    SELECT span, sum(known) AS known, sum(digest) AS digest
    FROM
    (
        SELECT span, known, sum(cityHash64({keys}, {sums})) AS digest
        FROM
        (
            SELECT {keys}, {span} AS span, {finer_sums}
            FROM {finer} AS w WHERE {within} AND {only} GROUP BY span, {keys}
        ) AS merged
        ANY LEFT JOIN
        (
            SELECT {span} AS span, sum(newest) AS known
            FROM (SELECT window_start, max(w.revision) AS newest FROM {finer} AS w WHERE {within} AND {only}
                GROUP BY window_start)
            GROUP BY span
        ) AS revisions USING (span)
        GROUP BY span, known
    )
    GROUP BY span
) AS wanted
ANY INNER JOIN
(
    SELECT {span} AS span, max(w.revision) AS known, sum(cityHash64({keys}, {own_sums})) AS digest
    FROM {table} AS w WHERE {within} GROUP BY span
) AS found USING (span)
WHERE (wanted.known = found.known AND wanted.digest != found.digest)
    -- It claims more windows than there are; where windows expire, they do so one by one.
    OR (wanted.known < found.known AND span >= (SELECT toUnixTimestamp(min(window_start)) FROM {finer}) + 2 * 86400)
ORDER BY span
"""


def _parts(coarse: CoarseTable) -> dict[str, str]:
    counts = [name for name in coarse.merged if name in _ADDED_UP]
    histogram = {
        "buckets": "arraySum(mapValues(w.histogram))",
        "weights": "arraySum((bucket, n) -> toInt64(bucket) * toInt64(n), "
        "mapKeys(w.histogram), mapValues(w.histogram))",
    }
    own = [f"toInt64(w.{name})" for name in counts] + [f"toInt64({sum_of})" for sum_of in histogram.values()]
    return {
        "keys": ", ".join(coarse.keys),
        "span": f"intDiv(toUnixTimestamp(window_start), {coarse.width_s}) * {coarse.width_s}",
        "finer": coarse.finer,
        "table": coarse.table,
        "only": coarse.only,
        "sums": ", ".join([f"toInt64(n_{name})" for name in counts] + list(histogram)),
        "finer_sums": ", ".join(
            [f"sum(w.{name}) AS n_{name}" for name in counts]
            + [f"sum(toInt64({sum_of})) AS {name}" for name, sum_of in histogram.items()]
        ),
        "own_sums": ", ".join(own),
        "within": "w.window_start >= toDateTime({from:UInt32}, 'UTC') "
        "AND w.window_start < toDateTime({to:UInt32}, 'UTC')",
    }

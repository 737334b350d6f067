"""The flakiest tests, of what ClickHouse counts in two statements (``sql/page.sql``)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST_SHOWN = 25
_TEST = ["test_suite", "test_id", "browser"]
_COUNTS = ["executions", "failures", "passed_after_retry", "retried_attempts", "changes_on_one_commit"]


def flakiest(single: pa.Table, before: pa.Table) -> pa.Table:
    """The tests with the largest flakiness, each with the sums of its counts in both tables.

    ``single`` counts executions one by one, ``before`` the windows before these. A test's flakiness is its share of
    executions that passed only after a retry, and of those looked through one by one that changed on one commit.
    """
    found = pa.concat_tables([single, before], promote_options="permissive")
    sums = [(name, "sum") for name in (*_COUNTS, "looked_through")]
    tests = found.group_by(_TEST, use_threads=False).aggregate([("name", "first"), *sums])
    tests = tests.rename_columns([name.removesuffix("_sum").removesuffix("_first") for name in tests.column_names])
    saved, changes = tests["passed_after_retry"], tests["changes_on_one_commit"]
    flakiness = _shares(saved, tests["executions"]) + _shares(changes, tests["looked_through"])
    tests = tests.append_column("flakiness", pa.array(np.round(np.minimum(flakiness, 1.0), 4)))
    tests = tests.filter(pc.greater(pc.add(pc.cast(saved, pa.int64()), pc.cast(changes, pa.int64())), 0))
    order = [("flakiness", "descending"), ("executions", "descending"), *((name, "ascending") for name in _TEST)]
    return (
        tests.sort_by(order)
        .slice(0, MOST_SHOWN)
        .select(["test_suite", "test_id", "name", "browser", *_COUNTS, "flakiness"])
    )


def _shares(count: pa.ChunkedArray, of: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    shares: np.ndarray[tuple[int], np.dtype[np.float64]] = count.to_numpy() / np.maximum(of.to_numpy(), 1)
    return shares

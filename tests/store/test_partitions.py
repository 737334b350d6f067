import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.partitions import DAY_MS, by_days


def table(moments_ms: list[int]) -> pa.Table:
    return pa.table(
        {"at": pa.array(moments_ms, pa.int64()).cast(pa.timestamp("ms", tz="UTC")), "n": range(len(moments_ms))}
    )


@given(st.lists(st.integers(-5 * DAY_MS, 400 * DAY_MS)), st.integers(1, 5))
def test_each_part_touches_few_days_and_each_day_lies_in_one(moments_ms: list[int], most: int) -> None:
    """Nothing is lost or doubled, and there are as few parts as can be."""
    parts = list(by_days(table(moments_ms), "at", most))
    days = [set(np.array(part["at"].cast(pa.int64())) // DAY_MS) for part in parts]
    assert sorted(row for part in parts for row in part["n"].to_pylist()) == list(range(len(moments_ms)))
    assert all(0 < len(part) <= most for part in days)
    distinct = len({moment // DAY_MS for moment in moments_ms})
    assert sum(map(len, days)) == distinct
    assert len(parts) == -(-distinct // most)

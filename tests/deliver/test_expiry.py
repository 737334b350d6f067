"""What read-back looks for: rows that the table keeps, and none that it may have let expire."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.base.config import DrainerSettings
from pipeline.deliver.activity import Activity
from pipeline.deliver.delivery import EXPIRY_MARGIN_MS, Deliverer
from pipeline.deliver.stopping import Stop
from pipeline.metric import Limits
from pipeline.store.migrate import RAW_TTL_MARGIN_HOURS

HOUR_MS = 3_600_000
RETENTION_H = 720


@pytest.mark.parametrize(("age_h", "looked_for"), [(0, True), (RETENTION_H + 46, True), (RETENTION_H + 48, False)])
def test_rows_are_looked_for_until_their_retention_and_47_hours_have_passed(age_h: int, looked_for: bool) -> None:
    """A row that is not there is missing, and inserted, unless the table may have expired it by right."""
    nothing: Any = None
    limits = Limits(retention_ms=RETENTION_H * HOUR_MS)
    deliverer = Deliverer(nothing, nothing, DrainerSettings(), limits, Activity(), Stop())
    now_ms = time.time_ns() // 1_000_000
    stamps = pa.array([now_ms - age_h * HOUR_MS] * 3).cast(pa.timestamp("ms", "UTC"))
    rows = pa.table({"position": pa.array([0, 1, 2], pa.uint32()), "timestamp": stamps})
    missing = deliverer._lacking(rows, np.array([1], np.uint32))
    assert missing["position"].to_pylist() == ([0, 2] if looked_for else [])


def test_the_table_keeps_rows_longer_than_they_are_looked_for() -> None:
    """Else a row that just expired would be inserted again, for ever."""
    assert 0 < EXPIRY_MARGIN_MS < RAW_TTL_MARGIN_HOURS * HOUR_MS

"""The alias trap: ``sum(passed) AS passed`` beside other uses of the column ``passed``."""

from collections.abc import Iterator

import pytest

from pipeline.base.config import Settings
from pipeline.base.errors import StoreRefused
from pipeline.store.client import Store

Case = tuple[str, list[tuple[object, ...]]]
RATE = 48 / 144


@pytest.fixture
def reader(store: Store, settings: Settings) -> Iterator[Store]:
    """An analyst's handle, beside a table of 48 rows in two suites."""
    store.command(
        "CREATE TABLE tried (t DateTime, suite String, passed UInt64, total UInt64) ENGINE = MergeTree ORDER BY t"
    )
    store.command(
        "INSERT INTO tried SELECT toDateTime('2026-01-01 00:00:00') + number * 300, toString(number % 2), number % 3, "
        "3 FROM numbers(48)"
    )
    with Store.open(settings, role="reader") as opened:
        yield opened


MEANT: tuple[Case, ...] = (
    ("SELECT sum(passed) AS passed, sum(passed) / sum(total) AS rate FROM tried", [(48, RATE)]),
    ("SELECT sum(passed) AS passed, sumIf(passed, total > 0) / sum(total) AS rate FROM tried AS w", [(48, RATE)]),
    ("SELECT sum(passed) AS passed, avg(passed + 1) AS a FROM tried", [(48, 2.0)]),
    ("SELECT sum(passed) AS passed FROM tried WHERE passed > 1", [(32,)]),
    ("SELECT suite, max(passed) AS passed, count() AS n FROM tried WHERE passed > 0 GROUP BY suite ORDER BY suite",
     [("0", 2, 16), ("1", 2, 16)]),
    ("SELECT round(sum(passed)) AS passed, quantileExact(0.5)(passed) AS m FROM tried", [(48, 1)]),
    ("SELECT sum(total) AS s, sum(passed) / s AS passed, max(passed) AS most FROM tried", [(144, RATE, 2)]),
    ("SELECT sum(passed) AS passed, max(passed) AS most FROM (SELECT passed FROM tried)", [(48, 2)]),
    ("SELECT sum(number) AS number, max(number) AS most FROM numbers(4)", [(6, 3)]),
    ("WITH w AS (SELECT * FROM tried) SELECT sum(passed) AS passed, max(passed) AS most FROM w", [(48, 2)]),
    ("SELECT * FROM (SELECT sum(passed) AS passed, max(passed) AS most FROM tried) AS inner_one", [(48, 2)]),
    ("SELECT sum(passed) AS passed, sum(arraySum(arrayMap(passed -> passed, [1, 2]))) AS s FROM tried", [(48, 144)]),
)  # fmt: skip


def test_the_column_is_meant_where_the_result_cannot_be(reader: Store) -> None:
    """A name that would be an aggregate inside an aggregate, or one in WHERE, is the column of the only table."""
    for sql, answer in MEANT:
        assert reader.rows(sql) == answer, sql


UNCHANGED: tuple[Case, ...] = (
    ("SELECT sum(passed) AS passed, passed / sum(total) AS rate FROM tried", [(48, RATE)]),
    ("SELECT count() FROM (SELECT toStartOfHour(t) AS t, sum(passed) AS passed FROM tried GROUP BY t)", [(4,)]),
    ("SELECT suite, sum(passed) AS passed FROM tried GROUP BY suite HAVING passed > 3 ORDER BY passed, suite",
     [("0", 24), ("1", 24)]),
    ("SELECT suite, sum(passed) AS passed, sum(passed) OVER () AS whole FROM tried GROUP BY suite ORDER BY suite",
     [("0", 24, 48), ("1", 24, 48)]),
    ("SELECT toStartOfHour(min(t)) AS t, max(total) FROM tried", [(1767225600, 3)]),
)  # fmt: skip


def test_what_runs_anyway_means_what_it_meant(reader: Store) -> None:
    """ClickHouse's rule stays where it gives an answer: an alias hides the column, in GROUP BY, HAVING and windows."""
    for sql, answer in UNCHANGED:
        assert reader.rows(sql) == answer, sql


def test_with_several_tables_the_error_says_what_to_do(reader: Store) -> None:
    """Whose column is meant cannot be known then."""
    with pytest.raises(StoreRefused, match=r"184.*write the table before the column"):
        reader.rows("SELECT sum(passed) AS passed, max(passed) AS m FROM tried AS a JOIN tried AS b ON a.t = b.t")

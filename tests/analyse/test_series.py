"""Telling series apart, against Python's own sorting of tuples."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analyse import series
from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.series import factorise

TEXT = st.sampled_from(["", "a", "b", "B", "ab", "é", "😀", "z"]) | st.text(max_size=3)
ROWS = st.lists(st.tuples(TEXT, TEXT, st.integers(0, 5)), max_size=40)
NAMES = ("browser", "page", "window")


def _table(rows: list[tuple[str, str, int]], encode: bool = False, chunk: int = 0) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    types = (pa.string(), pa.string(), pa.int64())
    table = pa.table({name: pa.array(c, t) for name, c, t in zip(NAMES, columns, types, strict=True)})
    if encode:
        text = {name: table.column(name).dictionary_encode() for name in NAMES[:2]}
        table = pa.table(text | {"window": table.column("window")})
    if chunk:
        table = pa.concat_tables(table.slice(at, chunk) for at in range(0, len(table), chunk)) if len(table) else table
    return table


@settings(deadline=None)
@given(ROWS, st.booleans(), st.integers(0, 7))
def test_groups_are_the_sorted_distinct_keys(rows: list[tuple[str, str, int]], encode: bool, chunk: int) -> None:
    """Plain or dictionary columns, in any chunks: ids point at the distinct keys, sorted by UTF-8 bytes."""
    found = factorise(_table(rows, encode, chunk), NAMES)
    keys = [tuple(row.values()) for row in found.keys.to_pylist()]
    in_bytes = sorted(set(rows), key=lambda row: (row[0].encode(), row[1].encode(), row[2]))
    assert keys == in_bytes
    assert [keys[group] for group in found.ids.tolist()] == rows


@settings(deadline=None)
@given(ROWS)
def test_more_combinations_than_fit_into_an_integer_are_told_apart(rows: list[tuple[str, str, int]]) -> None:
    """When packed codes would overflow they are made dense on the way; the groups are the same."""
    expected = factorise(_table(rows), NAMES)
    limit, series._LARGEST_CODE = series._LARGEST_CODE, 3
    try:
        found = factorise(_table(rows), NAMES)
    finally:
        series._LARGEST_CODE = limit
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.keys == expected.keys


def test_what_a_dictionary_holds_besides_makes_no_group() -> None:
    """Unused and repeated dictionary entries, and other dictionaries per chunk, leave no trace."""
    messy = pa.chunked_array(
        [
            pa.DictionaryArray.from_arrays(pa.array([3, 1, 2], pa.int32()), pa.array(["unused", "b", "a", "b"])),
            pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["a", "c"])),
        ]
    )
    found = factorise(pa.table({"page": messy}), ["page"])
    assert found.keys.column("page").to_pylist() == ["a", "b", "c"]
    assert found.ids.tolist() == [1, 1, 0, 0, 2]


@pytest.mark.parametrize("encode", [False, True])
def test_null_is_the_empty_string(encode: bool) -> None:
    """An absent dimension has one spelling."""
    column = pa.chunked_array([pa.array(["x", None, ""])])
    found = factorise(pa.table({"page": column.dictionary_encode() if encode else column}), ["page"])
    assert found.keys.column("page").to_pylist() == ["", "x"]
    assert found.ids.tolist() == [1, 0, 0]


def test_a_series_is_keyed_by_exactly_the_documented_dimensions() -> None:
    """Nine dimensions; tags, status and value never split a series."""
    assert " ".join(SERIES) == "metric_type environment browser test_suite test_id test_name page endpoint node"
    rows = 4
    table = pa.table({name: pa.array(["same"] * rows) for name in SERIES} | {"status": ["a", "b", "c", "d"]})
    found = factorise(table)
    assert found.groups == 1
    assert np.array_equal(found.ids, np.zeros(rows))


def test_no_rows_have_no_series() -> None:
    """An empty window is not an error."""
    found = factorise(pa.table({name: pa.array([], pa.string()) for name in SERIES}))
    assert found.groups == 0
    assert found.keys.column_names == list(SERIES)

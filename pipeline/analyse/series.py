"""What a series is, and which rows belong to one.

A series is keyed by exactly these dimensions; tags never split one. An absent dimension is the empty
string. ``factorise`` turns the dimension columns of a table into small integers, one per series, in an order that
depends on the names alone, so that equal rows give equal results whatever order they came in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.quantiles import IndexArray

# Codes of several columns are packed into one integer up to this size, and made dense when it is reached.
_LARGEST_CODE = 2**62
_LARGEST_PART = 2**31

_Told = TypeVar("_Told", bound=np.generic)


@dataclass(frozen=True)
class Factorised:
    """Rows told apart by their dimensions.

    ``ids`` (rows,) lie in [0, number of groups); ``keys`` has one row per group, the dimensions as
    dictionary-encoded strings (and, if asked for, ``window_start``), sorted by column from left to right.
    """

    ids: IndexArray
    keys: pa.Table

    @property
    def groups(self) -> int:
        """How many different keys there are."""
        return int(self.keys.num_rows)


@dataclass(frozen=True)
class Ranked:
    """A column's distinct values, ascending, and which of them each row has.

    ``codes`` (rows,) are places in ``rank_of_code``, which holds ranks into ``values``.
    """

    codes: NDArray[np.integer]
    rank_of_code: NDArray[np.integer]
    values: pa.Array

    @property
    def ranks(self) -> NDArray[np.integer]:
        """The rank of each row's value (rows,)."""
        found: NDArray[np.integer] = self.rank_of_code[self.codes]
        return found

    def ranks_at(self, rows: IndexArray) -> NDArray[np.integer]:
        """The rank of the values of some rows."""
        found: NDArray[np.integer] = self.rank_of_code[self.codes[rows]]
        return found

    def each(self, told: NDArray[_Told]) -> NDArray[_Told]:
        """What is ``told`` of each value (values,), for each row."""
        found: NDArray[_Told] = told[self.rank_of_code][self.codes]
        return found


def factorise(table: pa.Table, names: Sequence[str] = SERIES) -> Factorised:
    """Number the distinct combinations of the columns ``names`` in ascending order of their values.

    Columns are strings, plain or dictionary-encoded (much faster), or integers; null means the empty
    string or 0. Strings order as their UTF-8 bytes, as ClickHouse orders them.
    """
    columns = {name: ranked(table.column(name)) for name in names}
    codes = np.zeros(table.num_rows, dtype=np.int64)
    combinations = 1
    for packed in _packed([column for column in columns.values() if len(column.values) > 1]):
        size = math.prod(len(column.values) for column in packed)
        if combinations * size > _LARGEST_CODE:
            distinct, codes = densify(codes)
            combinations = len(distinct)
        if combinations > 1:
            codes *= size
        combinations *= size
        for column in packed:
            size //= len(column.values)
            codes += column.each(np.arange(len(column.values)) * size)
    distinct, ids = densify(codes)
    # Any row of a group stands for its key; which one is all the same.
    representative = np.empty(len(distinct), dtype=np.int64)
    representative[ids] = np.arange(table.num_rows)
    return Factorised(
        ids, pa.table({name: _take(column, column.ranks_at(representative)) for name, column in columns.items()})
    )


def _packed(columns: Sequence[Ranked]) -> Iterator[list[Ranked]]:
    """Neighbouring columns whose combinations fit half an integer; a column that does not stands alone."""
    packed: list[Ranked] = []
    for column in columns:
        if packed and math.prod(len(one.values) for one in [*packed, column]) > _LARGEST_PART:
            yield packed
            packed = []
        packed.append(column)
    if packed:
        yield packed


def ranked(column: pa.ChunkedArray) -> Ranked:
    """Distinct values of a column and which of them each row has; null becomes the empty string or 0."""
    absent = "" if _is_text(column.type) else 0
    encoded = column if pa.types.is_dictionary(column.type) else pc.fill_null(column, absent).dictionary_encode()
    joined = encoded.unify_dictionaries().combine_chunks()
    values, codes = joined.dictionary, joined.indices
    if codes.null_count:
        values = pa.concat_arrays([values, pa.array([absent], values.type)])
        codes = pc.fill_null(codes, len(values) - 1)
    # A dictionary may repeat a value or hold one that no row uses; neither changes the order of the groups. Sorted, and
    # not looked up in a table: Arrow's has no seed, and texts that were made to collide there would hold a job up.
    order = pc.sort_indices(values).to_numpy()
    in_order = values.take(order)
    is_new = np.ones(len(order), np.bool_)
    if len(order) > 1:
        is_new[1:] = pc.not_equal(in_order[1:], in_order[:-1]).to_numpy(zero_copy_only=False)
    rank_of_code = np.empty(len(order), np.int32)
    rank_of_code[order] = np.cumsum(is_new) - 1
    return Ranked(codes.to_numpy(zero_copy_only=False), rank_of_code, in_order.filter(pa.array(is_new)))


def _take(column: Ranked, ranks: NDArray[np.integer]) -> pa.Array:
    if not _is_text(column.values.type):
        return column.values.take(pa.array(ranks))
    return pa.DictionaryArray.from_arrays(pa.array(ranks.astype(np.int32)), column.values)


def densify(codes: IndexArray) -> tuple[IndexArray, IndexArray]:
    """Distinct codes, ascending, and each row's place among them."""
    if not len(codes):
        return codes, codes
    low, high = int(codes.min()), int(codes.max())
    if low == high:
        return np.array([low]), np.zeros(len(codes), np.int64)
    if high - low < 4 * len(codes):
        offsets = codes - low if low else codes
        present = np.zeros(high - low + 1, dtype=bool)
        present[offsets] = True
        if present.all():
            return np.arange(low, high + 1), offsets
        return np.flatnonzero(present) + low, (np.cumsum(present) - 1)[offsets]
    # Rows that come sorted have many neighbours with the same code.
    begins = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    if len(begins) < len(codes) // 2:
        distinct, place = densify(codes[begins])
        return distinct, np.repeat(place, np.diff(begins, append=len(codes)))
    # Codes far apart: Arrow's hash table beats sorting a million rows.
    encoded = pa.array(codes).dictionary_encode()
    values = encoded.dictionary.to_numpy()
    order = np.argsort(values)
    place = np.empty(len(values), dtype=np.int64)
    place[order] = np.arange(len(values))
    return values[order], place[encoded.indices.to_numpy()]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))

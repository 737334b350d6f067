"""Settings that an analyst may choose, in an address or in a statement, and within which limits.

A setting is here because it changes how a result is computed or written, and nothing else. What
decides how much may be taken (time, memory, rows) can be lowered, never raised. Not here, although
they look alike: ``output_format_schema`` and ``format_template_…`` name files, ``dialect`` and
``allow_experimental_analyzer`` choose another parser than the one that judges statements.
"""

import math
import os
import re
from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.base.config import WebSettings
from pipeline.embedded.handles import EngineError

_UNKNOWN_SETTING = 115
_READONLY = 164
_VIOLATION = 452

# A check returns what is wrong with a value, or nothing.
_Check = Callable[[str], str | None]

_BOOLEANS = frozenset({"0", "1", "true", "false"})
_MAX_TEXT = 4096


def allowed_setting(name: str, value: str, limits: WebSettings) -> str:
    """The value of a setting that a client asks for, if it may have it; ``EngineError`` with ClickHouse's code if not.

    115 (UNKNOWN_SETTING): there is no such setting for analysts. 164 (READONLY): it is fixed.
    452 (SETTING_CONSTRAINT_VIOLATION): the value is outside the limits.
    """
    if name == "readonly":
        # Some clients ask to be held to reading; they are already.
        if value in ("1", "2"):
            return "2"
        raise EngineError("Code: 164. DB::Exception: Setting 'readonly' is fixed here. (READONLY)", _READONLY)
    check = _limited(limits).get(name) or _FREE.get(name) or (_rendering if _RENDERING.fullmatch(name) else None)
    if check is None:
        shown = name if re.fullmatch(r"\w{1,100}", name) else "of that name"
        raise EngineError(
            f"Code: {_UNKNOWN_SETTING}. DB::Exception: The setting '{shown}' does not exist here, or is not one that "
            "analysts may choose. (UNKNOWN_SETTING)",
            _UNKNOWN_SETTING,
        )
    if wrong := check(value):
        raise EngineError(
            f"Code: {_VIOLATION}. DB::Exception: Setting '{name}' {wrong}. (SETTING_CONSTRAINT_VIOLATION)", _VIOLATION
        )
    return value


def memory_share_bytes(limits: WebSettings) -> int:
    """Memory of one query, so that all that run at once stay within ``web.query_max_memory_bytes``."""
    return max(1, limits.query_max_memory_bytes // limits.query_max_at_once)


def _limited(limits: WebSettings) -> dict[str, _Check]:
    """What may be lowered. 0 means "no limit" to ClickHouse, so it is above every limit."""
    share = memory_share_bytes(limits)
    return {
        "max_execution_time": _number(1e-3, math.ceil(limits.query_max_s)),
        "max_memory_usage": _integer(1, share),
        "max_result_bytes": _integer(1, share),
        "max_result_rows": _integer(1, limits.query_max_result_rows),
        "max_threads": _integer(1, os.cpu_count() or 1),
        "max_block_size": _integer(1, 1 << 20),
    }


def _boolean(value: str) -> str | None:
    return None if value.lower() in _BOOLEANS else "must be 0 or 1"


def _integer(least: int, most: int) -> _Check:
    def check(value: str) -> str | None:
        if re.fullmatch(r"[0-9]{1,19}", value) and least <= int(value) <= most:
            return None
        return f"must be a whole number from {least} to {most}"

    return check


def _number(least: float, most: float) -> _Check:
    def check(value: str) -> str | None:
        if re.fullmatch(r"[0-9]{1,19}(\.[0-9]{1,19})?", value) and least <= float(value) <= most:
            return None
        return f"must be a number above 0 and at most {most:g}"

    return check


def _one_of(*words: str) -> _Check:
    def check(value: str) -> str | None:
        return None if value in words else f"must be one of: {', '.join(repr(word) for word in words)}"

    return check


def _short_text(value: str) -> str | None:
    return None if len(value) <= _MAX_TEXT and "\x00" not in value else f"is longer than {_MAX_TEXT} characters"


def _timezone(value: str) -> str | None:
    if not value:
        return None
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return "must be a time zone such as 'Europe/Berlin'"
    return None


# How a result is written: a number, a boolean or a word of ClickHouse's own, never a path.
_RENDERING = re.compile(r"output_format_(json|csv|tsv|pretty|arrow|parquet|orc|native|binary|markdown|values|xml)_\w+")
_RENDERED = re.compile(r"[A-Za-z0-9_.+-]{0,64}")


def _rendering(value: str) -> str | None:
    return None if _RENDERED.fullmatch(value) else "must be a number or one word"


_COUNT = _integer(0, (1 << 63) - 1)
_FREE: dict[str, _Check] = {
    **dict.fromkeys(
        (
            *("final", "join_use_nulls", "group_by_use_nulls", "transform_null_in", "extremes"),
            *("aggregate_functions_null_for_empty", "prefer_column_name_to_alias", "cast_keep_nullable"),
            *("output_format_write_statistics", "output_format_decimal_trailing_zeros"),
            *("low_cardinality_allow_in_native_format", "describe_compact_output", "describe_include_subcolumns"),
            *("show_table_uuid_in_table_create_query_if_not_nil", "enable_named_columns_in_function_tuple"),
            *("enable_json_type", "allow_experimental_json_type", "cast_string_to_dynamic_use_inference"),
            *("cast_string_to_variant_use_inference", "any_join_distinct_right_table_keys"),
            *("optimize_read_in_order", "optimize_move_to_prewhere", "enable_optimize_predicate_expression"),
        ),
        _boolean,
    ),
    **dict.fromkeys(("max_rows_to_read", "max_bytes_to_read", "max_rows_to_group_by", "limit", "offset"), _COUNT),
    "session_timezone": _timezone,
    "log_comment": _short_text,
    "date_time_output_format": _one_of("simple", "iso", "unix_timestamp", "unix_timestamp_as_int", "iso_as_utc"),
    "date_time_input_format": _one_of("basic", "best_effort", "best_effort_us"),
    "date_time_overflow_behavior": _one_of("ignore", "saturate", "throw"),
    "result_overflow_mode": _one_of("throw", "break"),
    "read_overflow_mode": _one_of("throw", "break"),
    "group_by_overflow_mode": _one_of("throw", "break", "any"),
    "timeout_overflow_mode": _one_of("throw", "break"),
    "join_default_strictness": _one_of("", "ALL", "ANY", "ASOF"),
    "totals_mode": _one_of("before_having", "after_having_exclusive", "after_having_inclusive", "after_having_auto"),
    **dict.fromkeys(
        ("union_default_mode", "except_default_mode", "intersect_default_mode"), _one_of("", "ALL", "DISTINCT")
    ),
    "join_algorithm": _one_of(
        *("default", "auto", "direct", "hash", "parallel_hash", "partial_merge", "prefer_partial_merge"),
        *("grace_hash", "full_sorting_merge"),
    ),
    "format_csv_delimiter": lambda value: None if len(value) == 1 else "must be one character",
    "format_csv_null_representation": _short_text,
    "format_tsv_null_representation": _short_text,
    "bool_true_representation": _short_text,
    "bool_false_representation": _short_text,
}

"""What a statement of an analyst may consist of: the lists that ``statement_tree`` judges by.

A newer engine brings new kinds of nodes, fields, functions and columns; they stay closed until they
are listed here. ``tests/embedded/test_statements.py`` says how to look at one.
"""

import re
from functools import cache

from pipeline.base import resources

# The fields of each kind of node. Lists of nodes and texts that are shown, never looked up, need no more.
OUTFILE_FLAGS = "is_outfile_append is_outfile_truncate is_into_outfile_with_stdout"
FIELDS = {
    kind: frozenset(f"type {fields}".split())
    for kind, fields in {
        "ArrayJoin": "kind expression_list",
        "Asterisk": "transformers",
        "ColumnsApplyTransformer": "func_name parameters lambda lambda_arg column_name_prefix",
        "ColumnsExceptTransformer": "pattern children is_strict",
        "ColumnsListMatcher": "column_list transformers",
        "ColumnsRegexpMatcher": "pattern transformers",
        "ColumnsReplaceTransformer": "children is_strict",
        "ColumnsReplaceTransformerReplacement": "name children",
        "ColumnsTransformerList": "children",
        "ExplainQuery": f"kind settings query format_ast settings_ast {OUTFILE_FLAGS}",
        "ExpressionList": "children",
        "Function": (
            "name arguments parameters alias is_operator is_lambda_function kind nulls_action is_window_function "
            "window_name window_definition no_empty_args is_compound_name"
        ),
        "Identifier": "name name_parts alias children",
        "InterpolateElement": "column expr",
        "Literal": "value alias",
        "OrderByElement": (
            "direction nulls_direction nulls_direction_was_explicitly_specified with_fill expression collation "
            "fill_from fill_to fill_step fill_staleness"
        ),
        "QualifiedAsterisk": "qualifier transformers",
        "QueryParameter": "name param_type alias",
        "SampleRatio": "numerator denominator",
        "SelectQuery": (
            "select tables where settings limit_length limit_by_length limit_by limit_by_offset limit_offset "
            "limit_with_ties distinct order_by order_by_all group_by group_by_all group_by_with_grouping_sets "
            "group_by_with_cube group_by_with_rollup group_by_with_totals recursive_with with window cte_aliases "
            "qualify interpolate prewhere having"
        ),
        "SelectWithUnionQuery": (
            f"union_mode list_of_selects list_of_modes format_ast settings_ast {OUTFILE_FLAGS}"
        ),
        "SetQuery": "changes",
        "ShowColumnsQuery": (
            f"database table like not_like case_insensitive_like full extended where_expression limit_length "
            f"format_ast settings_ast {OUTFILE_FLAGS}"
        ),
        "ShowIndexesQuery": f"extended database table where_expression format_ast settings_ast {OUTFILE_FLAGS}",
        "ShowTablesQuery": (
            "from like not_like case_insensitive_like where_expression limit_length settings changed databases full "
            f"temporary format_ast settings_ast {OUTFILE_FLAGS}"
        ),
        "Subquery": "children alias cte_name",
        "TableExpression": "table_function database_and_table_name subquery sample_size sample_offset final",
        "TableIdentifier": "name name_parts alias children",
        "TableJoin": "kind locality strictness on_expression using_expression_list",
        "TablesInSelectQuery": "children",
        "TablesInSelectQueryElement": "table_expression table_join array_join",
        "UseQuery": "database",
        "WindowDefinition": (
            "parent_window_name order_by partition_by frame_is_default frame_type frame_begin_type frame_begin_offset "
            "frame_begin_preceding frame_end_type frame_end_offset frame_end_preceding"
        ),
        "WindowListElement": "name definition",
        "WithElement": "name subquery aliases",
    }.items()
}  # fmt: skip
STATEMENTS = frozenset(
    {"SelectWithUnionQuery", "ExplainQuery", "ShowTablesQuery", "ShowColumnsQuery", "ShowIndexesQuery", "UseQuery"}
)
EXPLAINS = frozenset(
    {"EXPLAIN", "EXPLAIN SYNTAX", "EXPLAIN PIPELINE", "EXPLAIN ESTIMATE", "EXPLAIN QUERY TREE", "EXPLAIN AST"}
)
EXPLAIN_SETTINGS = frozenset(
    {
        *(
            "actions",
            "compact",
            "description",
            "distributed",
            "dump_ast",
            "dump_passes",
            "dump_tree",
            "graph",
            "header",
        ),
        *("indexes", "json", "keep_logical_steps", "oneline", "optimize", "passes", "pretty", "projections"),
        *("query_tree_passes", "run_passes", "run_query_tree_passes", "sorting"),
    }
)
TABLE_FUNCTIONS = frozenset(
    {
        *("generate_series", "generateRandom", "generateSeries", "numbers", "numbers_mt", "primes", "values", "view"),
        *("zeros", "zeros_mt"),
    }
)
# Parsed as functions without being any.
OPERATORS = frozenset({"lambda", "exists", "_subquery", "grouping"})
COMBINATORS = (
    *("If", "Array", "Map", "State", "SimpleState", "Merge", "ForEach", "Distinct", "OrDefault", "OrNull"),
    *("Resample", "ArgMin", "ArgMax", "Tuple", "Null"),
)
# What a parameter may hold. An Identifier would name a table or a column after the judgement.
TYPES = frozenset(
    {
        *("Array", "Bool", "Boolean", "Date", "Date32", "DateTime", "DateTime32", "DateTime64", "Decimal", "Decimal32"),
        *("Decimal64", "Decimal128", "Decimal256", "Enum", "Enum8", "Enum16", "FixedString", "Float32", "Float64"),
        *("IPv4", "IPv6", "Int", "Int8", "Int16", "Int32", "Int64", "Int128", "Int256", "LowCardinality", "Map"),
        *("Nullable", "String", "Text", "Tuple", "UInt8", "UInt16", "UInt32", "UInt64", "UInt128", "UInt256", "UUID"),
    }
)

# Of the engine's own tables, the columns that say nothing about this machine; None: all of them.
SYSTEM: dict[str, tuple[str, ...] | None] = {
    **dict.fromkeys(("columns", "data_type_families", "functions", "numbers", "numbers_mt", "one", "settings")),
    "databases": ("name", "database", "engine", "uuid", "comment"),
    "mutations": ("database", "table", "mutation_id", "create_time", "parts_to_do", "is_done", "latest_fail_reason"),
    "parts": (
        *(
            "database",
            "table",
            "name",
            "partition",
            "partition_id",
            "active",
            "rows",
            "marks",
            "bytes",
            "bytes_on_disk",
        ),
        *("data_compressed_bytes", "data_uncompressed_bytes", "modification_time", "min_time", "max_time", "level"),
    ),
    "tables": (
        *("database", "name", "table", "uuid", "engine", "is_temporary", "metadata_modification_time", "comment"),
        *("dependencies_database", "dependencies_table", "create_table_query", "engine_full", "as_select"),
        *("partition_key", "sorting_key", "primary_key", "sampling_key", "has_own_data"),
        *(
            "total_rows",
            "total_bytes",
            "total_bytes_uncompressed",
            "parts",
            "active_parts",
            "total_marks",
            "lifetime_rows",
            "lifetime_bytes",
        ),
    ),
}
INFORMATION_SCHEMA = frozenset({"columns", "key_column_usage", "schemata", "statistics", "tables", "views"})
RESERVED = frozenset({"default", "system", "information_schema", "_temporary_and_external_tables"})


_AGGREGATES = "Aggregates and windows"


@cache
def _listed() -> tuple[frozenset[str], frozenset[str]]:
    """All functions of ``allowed_functions.txt``, and the aggregates among them, in lower case."""
    everything: set[str] = set()
    aggregates: set[str] = set()
    heading = ""
    for line in resources.package_text("embedded/allowed_functions.txt").splitlines():
        if line.startswith("#"):
            heading = line.removeprefix("# ")
            continue
        names = line.lower().split()
        everything.update(names)
        if heading == _AGGREGATES:
            aggregates.update(names)
    return frozenset(everything), frozenset(aggregates)


def allowed_functions() -> frozenset[str]:
    """Functions of the engine that analysts may call, in lower case."""
    return _listed()[0]


def aggregate_functions() -> frozenset[str]:
    """Those of them that take combinators (``sumIf``), in lower case."""
    return _listed()[1]


@cache
def own_functions() -> frozenset[str]:
    """Functions of ``sql/functions.sql``."""
    return frozenset(
        re.findall(r"^CREATE OR REPLACE FUNCTION (\w+)", resources.text("sql/functions.sql"), re.MULTILINE)
    )


@cache
def views() -> frozenset[str]:
    """Views of ``sql/views``; those with parameters are called like table functions."""
    return frozenset(file.stem for file in resources.path("sql/views").glob("*.sql"))

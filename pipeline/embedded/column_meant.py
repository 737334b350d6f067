"""``sum(passed) AS passed``: the second ``sum(passed)`` of a statement means the column, not its own result.

ClickHouse reads a name that is both a column and an alias as the alias. Where the alias stands for an aggregate and the
name is an argument of another aggregate, or stands in WHERE or GROUP BY, that is error 184 whatever was meant. Only
there the name gets its table in front (``sum(metrics_5min.passed)``), so no statement that runs changes its meaning.
(The setting ``prefer_column_name_to_alias`` would: GROUP BY an alias named as a column then groups by the column.)
With several tables in FROM the name may be a column of any, and the error stays.

Pure: takes a judged tree, gives a new one; what it gives is judged again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from pipeline.embedded import statement_lists as lists
from pipeline.embedded.statement_tree import Node, is_combined

_NO_AGGREGATES = ("where", "prewhere", "group_by")
"""Parts of a SELECT in which no aggregate may stand."""
_UNNAMED = "_rows"
"""What a subquery or table function without a name is called then."""
_INNER = frozenset({"SelectQuery", "SelectWithUnionQuery", "Subquery"})


def with_columns_meant(tree: Node) -> Node:
    """The statement, each SELECT in it looked at by itself."""
    whole: Node = _rebuilt(tree)
    return whole


def _rebuilt(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuilt(one) for one in value]
    if not isinstance(value, dict):
        return value
    node = {name: _rebuilt(one) for name, one in value.items()}
    return _select(node) if node.get("type") == "SelectQuery" else node


def _select(select: Node) -> Node:
    traps = _aggregate_aliases(select)
    table_name = _only_table(select) if traps else None
    if table_name is None:
        return select
    chosen = {
        name: _qualified(part, traps, table_name, must_be_column=name in _NO_AGGREGATES)
        for name, part in select.items()
        if name != "tables"
    }
    if chosen == {name: part for name, part in select.items() if name != "tables"}:
        return select
    return {**select, **chosen, "tables": _named(select["tables"], table_name)}


def _aggregate_aliases(select: Node) -> frozenset[str]:
    """Aliases of expressions with an aggregate in them, directly or by another alias."""
    given = [node for node in _own_nodes(select) if isinstance(node.get("alias"), str)]
    found = {node["alias"] for node in given if any(_is_aggregate(inner) for inner in _own_nodes(node))}
    while more := {node["alias"] for node in given if _reads(node, found)} - found:
        found |= more
    return frozenset(found)


def _reads(node: Node, names: Collection[str]) -> bool:
    return any(_is_bare(inner) and inner["name"] in names and inner is not node for inner in _own_nodes(node))


def _own_nodes(value: Any) -> Iterator[Node]:
    """Every node below, without those of inner SELECTs."""
    if isinstance(value, list):
        for one in value:
            yield from _own_nodes(one)
    elif isinstance(value, dict):
        yield value
        for name, one in value.items():
            if name != "tables" and not (isinstance(one, dict) and one.get("type") in _INNER):
                yield from _own_nodes(one)


def _qualified(value: Any, traps: frozenset[str], table_name: str, *, must_be_column: bool) -> Any:
    if isinstance(value, list):
        return [_qualified(one, traps, table_name, must_be_column=must_be_column) for one in value]
    if not isinstance(value, dict) or value.get("type") in _INNER:
        return value
    if must_be_column and _is_bare(value) and value["name"] in traps:
        return {**value, "name": f"{table_name}.{value['name']}", "name_parts": [table_name, value["name"]]}
    if value.get("name") == "lambda":
        traps -= {node["name"] for node in _own_nodes(value["arguments"]["children"][:1]) if _is_bare(node)}
    inside = must_be_column or _is_aggregate(value)
    return {
        name: _qualified(one, traps, table_name, must_be_column=inside if name == "arguments" else must_be_column)
        for name, one in value.items()
    }


def _is_aggregate(node: Node) -> bool:
    name = node.get("name")
    return (
        node.get("type") == "Function"
        and not node.get("is_window_function")
        and isinstance(name, str)
        and (name.lower() in lists.aggregate_functions() or is_combined(name))
    )


def _is_bare(node: Node) -> bool:
    return node.get("type") == "Identifier" and len(node.get("name_parts") or ()) < 2


def _only_table(select: Node) -> str | None:
    """The name of the only table in FROM."""
    elements = select.get("tables", {}).get("children", [])
    tables_read = [element["table_expression"] for element in elements if element.get("table_expression")]
    if len(tables_read) != 1:
        return None
    table = tables_read[0].get("database_and_table_name")
    if table:
        return str(table.get("alias") or (table.get("name_parts") or [table["name"]])[-1])
    inner = tables_read[0].get("subquery") or tables_read[0].get("table_function") or {}
    return str(inner.get("alias") or _UNNAMED)


def _named(tables: Node, table_name: str) -> Node:
    """FROM, in which the only table goes by a name."""
    if table_name != _UNNAMED:
        return tables
    children = [
        {**element, "table_expression": _with_alias(element["table_expression"], table_name)}
        if element.get("table_expression")
        else element
        for element in tables["children"]
    ]
    return {**tables, "children": children}


def _with_alias(expression: Node, alias: str) -> Node:
    return {
        name: {**inner, "alias": alias} if name in ("subquery", "table_function") and isinstance(inner, dict) else inner
        for name, inner in expression.items()
    }

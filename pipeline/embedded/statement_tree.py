"""Which statements an analyst may run: a judgement over the tree that the engine's own parser gives.

Everything is an allow-list: kinds of statements, kinds of nodes and their fields, functions, table
functions, tables, formats, settings. What is not listed is refused, so that what a newer engine can
do stays closed until it was reviewed. Pure: a tree goes in; out comes the tree to run, or
``EngineError``. Of the engine's own tables only columns without paths are read: a table of
``system`` becomes a subquery that names them.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pipeline.base.config import WebSettings
from pipeline.embedded import statement_lists as lists
from pipeline.embedded.handles import OUTPUT_FORMATS, EngineError, QuerySettings
from pipeline.embedded.statement_settings import allowed_setting

Node = dict[str, Any]

READONLY = 164
ACCESS_DENIED = 497
_UNKNOWN_FORMAT = 73
_UNKNOWN_FUNCTION = 46

_IN = re.compile(r"(?i:(?:global)?(?:not)?(?:null)?in)(?:IgnoreSet)?")
_TYPE_WORD = re.compile(r"'[^'\\]*'|([A-Za-z_]\w*)|[\d(),=\s-]")


@dataclass(frozen=True)
class Place:
    """Where a statement runs: the database that analysts read, the one that unqualified names mean, and the
    engine's functions (in lower case) that are not listed."""

    home: str
    current: str
    unlisted: frozenset[str]
    limits: WebSettings


@dataclass(frozen=True)
class JudgedStatement:
    """A tree that may run."""

    tree: Node
    format: str | None
    returns_rows: bool
    query_settings: QuerySettings


def judge(tree: Node, place: Place) -> JudgedStatement:
    """The tree as it may run in ``place``. Raises ``EngineError`` with ClickHouse's code when it may not."""
    if tree.get("type") not in lists.STATEMENTS:
        refuse(READONLY, "only questions are answered here")
    judgement = _Judgement(place, _aliases(tree))
    judged = judgement.node(tree)
    format_name = judged["format_ast"]["name"] if judged.get("format_ast") else None
    return JudgedStatement(judged, format_name, tree["type"] != "UseQuery", tuple(judgement.query_settings))


def refuse(code: int, why: str) -> NoReturn:
    """Raise a refusal in ClickHouse's form."""
    raise refusal(code, why)


def refusal(code: int, why: str) -> EngineError:
    """A refusal in ClickHouse's form."""
    name, opening = {
        READONLY: ("READONLY", "Cannot execute query in readonly mode: "),
        ACCESS_DENIED: ("ACCESS_DENIED", "Not enough privileges: "),
        _UNKNOWN_FORMAT: ("UNKNOWN_FORMAT", ""),
        _UNKNOWN_FUNCTION: ("UNKNOWN_FUNCTION", ""),
    }[code]
    return EngineError(f"Code: {code}. DB::Exception: {opening}{why}. ({name})", code)


def plain_table(database: str, table: str, place: Place) -> None:
    """Whether a table may be looked at; ``database`` may be empty. Raises ``EngineError`` if not."""
    database = database or place.current
    if database == place.home:
        return
    if database == "system" and table in lists.SYSTEM:
        return
    if database.lower() == "information_schema" and table.lower() in lists.INFORMATION_SCHEMA:
        return
    refuse(ACCESS_DENIED, f"the table {shown(database)}.{shown(table)} is not one that analysts may read")


def plain_database(database: str, place: Place) -> None:
    """Whether a database may be looked at or used. Raises ``EngineError`` if not."""
    if database != place.home and database != "system" and database.lower() != "information_schema":
        refuse(ACCESS_DENIED, f"the database {shown(database)} is not one that analysts may read")


def shown(name: str) -> str:
    """A name as an error may repeat it: short, and without anything that a terminal would obey."""
    return re.sub(r"[^\w./$-]", "?", name[:80])


def _shown_words(text: str) -> str:
    """The same for a type or a form of a statement, which hold blanks and parentheses too."""
    return re.sub(r"[^\w./$ (),'=-]", "?", text[:80])


def _said(kind: str) -> str:
    """A kind of node as people write it: ``ShowTablesQuery`` is SHOW TABLES."""
    if kind == "SetQuery":
        return "SETTINGS"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", shown(kind).removesuffix("Query")).upper()


def _with(kind: str, fields: Collection[str]) -> str:
    return f"{_said(kind)} with {shown(min(fields)).replace('_', ' ')}"


_CHECKS = {
    "Literal": "_literal",
    "Function": "_function",
    "ColumnsApplyTransformer": "_columns_apply_transformer",
    "Identifier": "_identifier",
    "QualifiedAsterisk": "_qualified_asterisk",
    "QueryParameter": "_query_parameter",
    "TableIdentifier": "_table_identifier",
    "TableExpression": "_table_expression",
    "SetQuery": "_set_query",
    "ExplainQuery": "_explain_query",
    "SelectWithUnionQuery": "_select_with_union_query",
    "ShowTablesQuery": "_show_tables_query",
    "ShowColumnsQuery": "_show_columns_query",
    "ShowIndexesQuery": "_show_indexes_query",
    "UseQuery": "_use_query",
}


@dataclass
class _Judgement:
    place: Place
    aliases: "_Aliases"
    query_settings: list[tuple[str, str]] = field(default_factory=list)

    def node(self, node: Node) -> Node:
        """The node, judged with everything below it."""
        kind = node.get("type")
        fields = lists.FIELDS.get(str(kind))
        if fields is None:
            refuse(READONLY, f"{_said(str(kind))} is not allowed in a question")
        if "out_file" in node:
            refuse(READONLY, "INTO OUTFILE is not allowed")
        if unknown := node.keys() - fields:
            said = "DEFAULT as the value of a setting" if "default_settings" in unknown else _with(str(kind), unknown)
            refuse(READONLY, f"{said} is not allowed in a question")
        check = getattr(self, _CHECKS[str(kind)]) if str(kind) in _CHECKS else None
        replaced: Node | None = check(node) if check else None
        return replaced if replaced is not None else {name: self._value(value) for name, value in node.items()}

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self.node(value)
        if isinstance(value, list):
            return [self._value(one) for one in value]
        return value

    # One method for each kind of node that names something. Each returns the node to run instead, if it looked
    # at everything below it, or None.

    def _literal(self, node: Node) -> Node:
        if not isinstance(node["value"], dict) or "field_type" not in node["value"]:
            refuse(READONLY, "a literal of an unknown form")
        return node

    def _function(self, node: Node) -> None:
        self._function_name(node["name"])
        if _IN.fullmatch(node["name"]):
            members = node.get("arguments", {}).get("children", [])[1:2]
            if members and members[0].get("type") in ("Identifier", "TableIdentifier"):
                self._set_of_in(members[0])

    def _columns_apply_transformer(self, node: Node) -> None:
        if node.get("func_name"):
            self._function_name(node["func_name"])

    def _identifier(self, node: Node) -> Node | None:
        _without_parameter(node)
        if len(node.get("name_parts", ())) > 2 and (shorter := _without_system(node)):
            return shorter
        if len(node.get("name_parts", ())) < 2 and node["name"].lower() in self.place.unlisted:
            # A function given by its bare name; whether the name means a column is known only to the engine.
            refuse(ACCESS_DENIED, f"the name {shown(node['name'])} means a function that analysts may not call")
        return None

    def _qualified_asterisk(self, node: Node) -> Node | None:
        shorter = _without_system(node["qualifier"])
        if shorter is None:
            return None
        return {name: shorter if name == "qualifier" else self._value(value) for name, value in node.items()}

    def _query_parameter(self, node: Node) -> None:
        kind = node["param_type"]
        words = [found[1] for found in _TYPE_WORD.finditer(kind) if found[1]]
        if _TYPE_WORD.sub("", kind) or not words or not set(words) <= lists.TYPES:
            advice = "write the name into the statement" if "Identifier" in words else "pass a text and convert it"
            refuse(ACCESS_DENIED, f"a parameter of the type {_shown_words(kind)} is not allowed; {advice}")

    def _table_identifier(self, node: Node) -> None:
        parts = node.get("name_parts") or [node["name"]]
        if node.get("children"):
            refuse(
                ACCESS_DENIED, "a parameter of the type Identifier is not allowed; write the name into the statement"
            )
        if len(parts) > 2 or not all(parts):
            refuse(ACCESS_DENIED, "a table is named by itself, or by its database and itself")
        plain_table("" if len(parts) == 1 else parts[0], parts[-1], self.place)

    def _table_expression(self, node: Node) -> Node | None:
        if function := node.get("table_function"):
            return {
                name: self._table_function(function) if name == "table_function" else self._value(value)
                for name, value in node.items()
            }
        if table := node.get("database_and_table_name"):
            self.node(table)
            parts = table.get("name_parts") or [self.place.current, table["name"]]
            columns = lists.SYSTEM.get(parts[-1]) if parts[0] == "system" else None
            if columns:
                rest = {name: self._value(value) for name, value in node.items() if name.startswith("sample")}
                subquery = _selection(parts[-1], columns, table.get("alias") or parts[-1])
                return {"type": "TableExpression", "subquery": subquery, **rest}
        return None

    def _set_query(self, node: Node) -> Node:
        for change in node["changes"]:
            value = change.get("value")
            if set(change) != {"name", "value"} or not isinstance(value, dict):
                refuse(READONLY, "a setting has a plain value")
            if value.get("field_type") not in ("UInt64", "Int64", "Float64", "String", "Bool"):
                refuse(READONLY, "a setting has a plain value")
            text = {True: "1", False: "0"}.get(value["value"], str(value["value"]))
            self.query_settings.append((change["name"], allowed_setting(change["name"], text, self.place.limits)))
        return node

    def _explain_query(self, node: Node) -> Node:
        if node["kind"] not in lists.EXPLAINS:
            refuse(READONLY, f"{_shown_words(str(node['kind']))} is not allowed")
        for change in node.get("settings", {}).get("changes", ()):
            if change["name"] not in lists.EXPLAIN_SETTINGS or change["value"].get("field_type") not in (
                "UInt64",
                "Bool",
            ):
                refuse(READONLY, f"EXPLAIN with {shown(change['name'])} is not allowed")
        if node.get("settings", {"type": "SetQuery", "changes": []}).keys() != {"type", "changes"}:
            refuse(READONLY, "EXPLAIN with such settings is not allowed")
        if node.get("query", {}).get("type") != "SelectWithUnionQuery":
            refuse(READONLY, "EXPLAIN is for SELECT")
        return {name: self._with_format(name, value) if name != "settings" else value for name, value in node.items()}

    def _select_with_union_query(self, node: Node) -> Node:
        return {name: self._with_format(name, value) for name, value in node.items()}

    def _show_tables_query(self, node: Node) -> Node:
        if named := node.get("from"):
            plain_database(named["name"], self.place)
        return {name: self._with_format(name, value) for name, value in node.items()}

    def _show_columns_query(self, node: Node) -> Node:
        plain_table(node.get("database", ""), node["table"], self.place)
        return {name: self._with_format(name, value) for name, value in node.items()}

    _show_indexes_query = _show_columns_query

    def _use_query(self, node: Node) -> None:
        plain_database(node["database"].get("name", ""), self.place)

    def _with_format(self, name: str, value: Any) -> Any:
        """A format stands as an identifier and is none."""
        if name != "format_ast":
            return self._value(value)
        if value.get("type") != "Identifier" or value["name"].lower() not in OUTPUT_FORMATS:
            refuse(_UNKNOWN_FORMAT, f"Unknown format {shown(value.get('name', ''))}")
        return value

    def _table_function(self, node: Node) -> Node:
        if unknown := node.keys() - lists.FIELDS["Function"]:
            refuse(READONLY, f"a table function with {shown(min(unknown))} is not allowed")
        name = node["name"]
        is_view = name.removeprefix(self.place.home + ".") in lists.views() and self.place.current == self.place.home
        if name not in lists.TABLE_FUNCTIONS and not is_view:
            refuse(ACCESS_DENIED, f"the table function {shown(name)} is not one that analysts may call")
        return {
            key: [self.node(one) for one in value] if isinstance(value, list) else self._value(value)
            for key, value in node.items()
        }

    def _function_name(self, name: str) -> None:
        if name in lists.OPERATORS or name.lower() in lists.allowed_functions() or name in lists.own_functions():
            return
        if is_combined(name):
            return
        if name in self.aliases.lambdas and name.lower() not in self.place.unlisted:
            return
        if name.lower() not in self.place.unlisted:
            refuse(_UNKNOWN_FUNCTION, f"Function with name {shown(name)} does not exist")
        refuse(ACCESS_DENIED, f"the function {shown(name)} is not one that analysts may call")

    def _set_of_in(self, node: Node) -> None:
        """A name behind IN means a column, an alias, or a table."""
        parts = node.get("name_parts") or [node["name"]]
        if len(parts) == 1:
            if parts[0] not in self.aliases.names:
                plain_table("", parts[0], self.place)
            return
        is_alias = parts[0] in self.aliases.names and parts[0].lower() not in lists.RESERVED
        if len(parts) == 2 and not is_alias:
            plain_table(parts[0], parts[1], self.place)
            if parts[0] == "system" and lists.SYSTEM[parts[1]]:
                refuse(ACCESS_DENIED, f"write (SELECT … FROM system.{shown(parts[1])}) behind IN")


def _without_parameter(node: Node) -> None:
    """A name that a parameter fills in later cannot be judged."""
    if node.get("children"):
        refuse(ACCESS_DENIED, "a parameter of the type Identifier is not allowed; write the name into the statement")


def _without_system(node: Node) -> Node | None:
    """``system.tables.name`` as ``tables.name``, which is what its subquery is called."""
    parts = node.get("name_parts") or []
    if parts[:1] != ["system"] or not lists.SYSTEM.get(parts[1]):
        return None
    return {**node, "name": ".".join(parts[1:]), "name_parts": parts[1:]}


def is_combined(name: str) -> bool:
    """Whether this is an aggregate function with combinators behind it (``sumMapMergeState``)."""
    return any(
        base.lower() in lists.aggregate_functions() or is_combined(base)
        for suffix in lists.COMBINATORS
        if name.endswith(suffix) and (base := name.removesuffix(suffix))
    )


@dataclass(frozen=True)
class _Aliases:
    names: frozenset[str]
    lambdas: frozenset[str]


def _aliases(tree: Node) -> _Aliases:
    """What the statement itself gives names to; lambdas apart, for those are called like functions."""
    names, lambdas = set(), set()
    for node in _nodes(tree):
        given = node.get("alias") or (node.get("name") if node.get("type") in ("WithElement",) else None)
        if isinstance(given, str):
            names.add(given)
            if node.get("is_lambda_function"):
                lambdas.add(given)
        if node.get("type") == "TableIdentifier":
            names.add((node.get("name_parts") or [node["name"]])[-1])
    return _Aliases(frozenset(names), frozenset(lambdas))


def _nodes(tree: Node) -> Iterator[Node]:
    waiting: list[Any] = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _selection(table: str, columns: tuple[str, ...], alias: str) -> Node:
    """``(SELECT columns FROM system.table) AS alias``."""
    select = {
        "type": "SelectQuery",
        "select": {"type": "ExpressionList", "children": [{"type": "Identifier", "name": name} for name in columns]},
        "tables": {
            "type": "TablesInSelectQuery",
            "children": [
                {
                    "type": "TablesInSelectQueryElement",
                    "table_expression": {
                        "type": "TableExpression",
                        "database_and_table_name": {
                            "type": "TableIdentifier",
                            "name": f"system.{table}",
                            "name_parts": ["system", table],
                        },
                    },
                }
            ],
        },
    }
    union = {
        "type": "SelectWithUnionQuery",
        "union_mode": "UNION_DEFAULT",
        "list_of_selects": {"type": "ExpressionList", "children": [select]},
        **dict.fromkeys(lists.OUTFILE_FLAGS.split(), False),
    }
    return {"type": "Subquery", "alias": alias, "children": [union]}

"""Texts and names as ClickHouse's SQL writes them."""


def literal(text: str) -> str:
    """``text`` as a string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(name: str) -> str:
    """``name`` as the name of a table, a column, a database or a setting."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


_ALIAS_TRAP = "(ILLEGAL_AGGREGATION)"
_ALIAS_HINT = (
    " An alias with the name of a column hides the column: after sum(passed) AS passed, every other passed means that"
    " sum. Name it otherwise (sum(passed) AS passed_tests) or write the table before the column (metrics_5min.passed)."
)


def explained(error: str) -> str:
    """An error of ClickHouse with what to do, where its own sentence does not say."""
    return error + _ALIAS_HINT if _ALIAS_TRAP in error and _ALIAS_HINT not in error else error

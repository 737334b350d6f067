"""Texts and names as ClickHouse's SQL writes them."""


def literal(text: str) -> str:
    """``text`` as a string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(name: str) -> str:
    """``name`` as the name of a table, a column, a database or a setting."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"

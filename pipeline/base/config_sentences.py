"""What is wrong with a setting, in one sentence that shows no secret."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.base.config_types import section_of, shown
from pipeline.base.nearest import closest
from pipeline.base.text import HIDDEN, masked, printable

_WORDS = {
    "string_type": "should be a text; write it in quotes",
    "missing": "is missing",
    "path_type": "should be a path; write it in quotes",
}


def sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake that pydantic found."""
    first = error.errors(include_url=False)[0]
    location, field = _place(first["loc"], model)
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        return _unknown(location, model)
    if first["type"] in ("model_type", "model_attributes_type", "dict_type") and (field is None or section_of(field)):
        names = ", ".join(_names_at(location, model)) or "settings"
        value = shown(field, first["input"])
        given = "" if value == HIDDEN else f"has the value {value}, but "
        return f"setting '{key}' {given}is a section that holds {names}; it cannot be one value"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = _WORDS.get(first["type"], message[:1].lower() + message[1:])
    if first["type"] == "value_error" and (field is None or section_of(field)):  # it names the settings itself
        return printable(masked(message))
    value = shown(field, first["input"])
    if first["type"] == "string_pattern_mismatch":  # what is no name may be anything, a password too
        message, value = f"should match the pattern {first['ctx']['pattern']}", HIDDEN
    what = f"setting '{key}'" if value == HIDDEN else f"setting '{key}' has the value {value}:"
    if first["type"] == "value_error" and value == HIDDEN:
        return printable(masked(f"{what}: {message}"))
    return printable(masked(f"{what} {message}"))


def _unknown(location: Sequence[str], model: type[BaseModel]) -> str:
    *parents, name = location
    known = _names_at(parents, model)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", name):
        where = f"section '{'.'.join(parents)}'" if parents else "the file of settings"
        return f"{where} has a key that is not the name of a setting; it holds {', '.join(known)}"
    near = closest(name, known) or (min(known, key=lambda one: _distance(name, one)) if known else "")
    hint = f"; did you mean '{'.'.join([*parents, near])}'?" if near else ""
    return f"unknown setting '{'.'.join(location)}'{hint}"


def _distance(name: str, other: str) -> int:
    """How many letters only one of the two has."""
    return len(set(name) ^ set(other))


def _place(parts: Sequence[object], model: type[BaseModel]) -> tuple[list[str], FieldInfo | None]:
    """The dotted path of a setting in pydantic's location, and the setting when it is known.

    pydantic adds the branches of unions and the positions in lists.
    """
    location: list[str] = []
    field: FieldInfo | None = None
    inner: type[BaseModel] | None = model
    for part in parts:
        if inner is None:
            if isinstance(part, int) or (isinstance(part, str) and not part.startswith(("function-", "list[", "str"))):
                location.append(str(part))
            continue
        location.append(str(part))
        field = inner.model_fields.get(str(part))
        inner = section_of(field) if field else None
    return location, field


def _names_at(location: Sequence[str], model: type[BaseModel]) -> list[str]:
    inner: type[BaseModel] | None = model
    for part in location:
        field = inner.model_fields.get(part) if inner else None
        inner = section_of(field) if field else None
    return list(inner.model_fields) if inner else []

"""What settings are made of: sections, bounded numbers, and which texts may be shown to people.

A text setting is hidden in every message unless its type says otherwise, so that a setting which is
added without a thought gives nothing away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticKnownError

from pipeline.base.addresses import passwords_in
from pipeline.base.text import HIDDEN, masked, masked_url, printable

_LONGEST = 80


@dataclass(frozen=True)
class Shown:
    """Marks a text setting that may be shown; with ``as_url`` only what a URL may show."""

    as_url: bool = False


def _at_most(limit: float) -> AfterValidator:
    """As ``le``, but beside a setting's own ``le``: of two that pydantic finds in one type it keeps only the last."""

    def check(value: float) -> float:
        if value > limit:
            raise PydanticKnownError("less_than_equal", {"le": limit})
        return value

    return AfterValidator(check)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("truth_for_number", "should be a number, not true or false")
    return value


Percent = Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=1000)]
"""A share of something, as it stands in lists and mappings."""
Positive = Annotated[float, Field(gt=0), _at_most(1e9)]
PositiveInt = Annotated[int, Field(gt=0), _at_most(10**15)]
Interval = Annotated[float, Field(ge=0.1), _at_most(1e9)]
"""Seconds from one turn of a job to the next, or until an answer is given up. Shorter: a loop that never rests, or an
answer that never comes in time."""
Pause = Annotated[float, Field(ge=0.01), _at_most(1e9)]
"""Seconds that a loop of the drainer waits at most."""
Lease = Annotated[float, Field(ge=1), _at_most(1e9)]
"""Seconds for which a chunk is held: long enough for the answers of Redis that prolong it."""
PlainText = Annotated[str, Shown()]
"""A text that holds no secret."""
Url = Annotated[str, Shown(as_url=True)]
"""A URL; user, password and options are hidden."""


class Section(BaseModel):
    """A part of the settings: unknown keys are refused, values do not change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """For pydantic, ``true`` is the number 1."""
        field = cls.model_fields.get(info.field_name or "")
        return _no_truth(value) if field is not None and field.annotation in (int, float) else value


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a section and of the sections in it, by its dotted path."""
    for name, field in model.model_fields.items():
        inner = section_of(field)
        if inner is not None:
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section behind a field; None when it is a setting."""
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def is_text(field: FieldInfo) -> bool:
    """Whether the setting is a text and nothing else."""
    return field.annotation is str


def shown(field: FieldInfo | None, value: Any) -> str:
    """The value for people; hidden unless it is known that it holds no secret."""
    declared = next((one for one in field.metadata if isinstance(one, Shown)), None) if field else None
    if value is None or isinstance(value, bool | int | float):
        # A password of digits, without quotes, is a number; so is one that stands in the place of a whole section.
        may_be_secret = field is not None and (is_text(field) or section_of(field) is not None)
        if may_be_secret and (declared is None or declared.as_url):
            return HIDDEN
        return repr(value) if isinstance(value, float) else json.dumps(value)
    if isinstance(value, Path | Enum):
        value, declared = str(value), Shown()
    if isinstance(value, list) and declared and all(isinstance(one, str) for one in value):
        return f"[{', '.join(shown(field, one) for one in value)}]"
    if not isinstance(value, str) or field is None:
        return HIDDEN
    if declared and declared.as_url:
        return "'embedded'" if value == "embedded" else f"'{masked_url(value)}'" if value else "''"
    if (declared or not _holds_text(field)) and _is_harmless(value):
        return f"'{printable(value)}'"
    return HIDDEN if value else "''"


def _holds_text(field: FieldInfo) -> bool:
    """Whether a text may be right in this setting; in a number it is a slip, and is shown."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return any(kind in (str, Any) or kind is dict or kind is list for kind in kinds) or any(
        str in get_args(kind) or Any in get_args(kind) for kind in kinds
    )


def _is_harmless(value: str) -> bool:
    return len(value) <= _LONGEST and "@" not in value and value[:1] not in ("{", "[") and masked(value) == value


def secrets_in(values: Any, fields: Mapping[str, FieldInfo], prefix: str = "") -> Iterator[str]:
    """Every text among given values that may be a secret, so that it can be hidden wherever it turns up."""
    if isinstance(values, dict):
        for name, inner in values.items():
            path = f"{prefix}{name}"
            field = fields.get(path)
            if field is None and isinstance(inner, dict):
                yield from secrets_in(inner, fields, f"{path}.")
            else:
                yield from _secret_texts(field, inner)
    else:
        yield from _secret_texts(None, values)


def _secret_texts(field: FieldInfo | None, value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        if field is not None and any(isinstance(one, Shown) for one in field.metadata):
            return
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _secret_texts(None, inner)
        return
    if not isinstance(value, str):
        return
    declared = next((one for one in field.metadata if isinstance(one, Shown)), None) if field else None
    if declared and not declared.as_url:
        return
    if "://" in value:
        yield from passwords_in(value)
    elif field is not None and is_text(field) and not declared:
        yield value

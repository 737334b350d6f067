"""Reads JSON objects that the platform wrote into Redis, valid or not."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode


def json_object(raw: bytes, wanted: Collection[str] | None = None) -> dict[str, str] | None:
    """The fields (those in ``wanted``) of a JSON object as text, nested ones as JSON text; None for anything else.

    Bytes that are not UTF-8 become U+FFFD, halves of a surrogate pair a question mark; what is too deep is not read.
    """
    try:
        try:
            loaded = _decode(raw)
        except msgspec.DecodeError:  # also what is legal but not to msgspec: NaN, lone surrogates
            loaded = json.loads(raw.decode("utf-8", "replace"))
        if not isinstance(loaded, dict):
            return None
        if wanted is not None:
            return {name: plain_text(loaded[name]) for name in wanted if name in loaded}
        return {_sound(str(name)): plain_text(value) for name, value in loaded.items()}
    except (ValueError, RecursionError):
        return None


def plain_text(value: Any) -> str:
    """A JSON value as the text of a field."""
    return _sound(value) if isinstance(value, str) else json.dumps(value)


def _sound(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()

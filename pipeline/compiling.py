"""Loops that numba compiles on first use, and keeps for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def compiled(function: Function) -> Function:
    """Compile on first use. Where no directory can be written for the cache, each process compiles anew."""
    try:
        result: Function = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:
        result = numba.njit(**OPTIONS)(function)
    return result

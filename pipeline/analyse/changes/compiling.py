"""Loops along the points of a series, compiled: where numpy would need many arrays, or a call for each point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile on first use. Where no directory can be written for the cache, each process compiles anew."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        result: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        result = numba.njit(**options)(function)
    return result

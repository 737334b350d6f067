"""Which keys of the platform's Redis are this product's alone, beside those that the schema gives to it."""

from __future__ import annotations

from pipeline.base.config import Settings
from pipeline.base.keys import BufferKeys


def is_own(key: str, settings: Settings) -> bool:
    """Whether ``key`` belongs to one of the pipeline's buffers, or to the fleet."""
    prefixes = [BufferKeys(buffer).scratch.removesuffix("scratch") for buffer in settings.buffer.keys]
    fleet = getattr(settings, "fleet", None)
    if fleet is not None:
        prefixes.append("{" + fleet.name + "}:")
    return key in settings.buffer.keys or key.startswith(tuple(prefixes))

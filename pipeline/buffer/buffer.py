"""The buffer: seal, claim, read, ack; everything that moves items inside Redis.

Promises. Sealing renames the whole list to an immutable segment under a name that was
never used before; producers are not held up. A segment is cut into chunks whose
boundaries never change; a chunk is leased, read as often as needed, and removed only by
an ack whose lease still holds. What a lease protects is efficiency; safety comes from
the rows' identity (segment, position) and from reading back what is in doubt.

When Redis is away every method raises ``RedisOutage`` and has changed nothing, or has
changed it as a whole: a seal or a claim whose reply was lost is found again (an open
segment, an expired lease), an ack whose reply was lost is answered ``LeaseLost``.
"""

from __future__ import annotations

from pipeline.base.config import Settings
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.aside import SettingAside
from pipeline.buffer.claiming import Claiming
from pipeline.buffer.notes import Notes


class Buffer(Claiming, SettingAside, Notes):
    """One buffer list and its siblings. Any number of processes may hold one over the same key.

    Each part of a chunk's life has a file: ``sealing``, ``claiming``, ``reading``, ``acking``, ``aside``; ``notes``
    keeps the counters and what else stands beside the items.
    """


def open_buffer(settings: Settings, link: RedisLink, key: str) -> Buffer:
    """One buffer as the settings have it."""
    return Buffer(
        link.database("metrics"),
        key,
        page_rows=settings.drainer.page_rows,
        lease_s=settings.drainer.lease_s,
        aof_dir=link.embedded_dir,
    )


def open_buffers(settings: Settings, link: RedisLink) -> list[Buffer]:
    """The buffers of the settings."""
    return [open_buffer(settings, link, key) for key in settings.buffer.keys]

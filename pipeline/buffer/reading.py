"""Reading the items of a chunk, as often as needed; a segment that another program changed is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.base import log
from pipeline.base.errors import LeaseLost
from pipeline.base.redis_link import outages
from pipeline.buffer.chunk import Chunk
from pipeline.buffer.commands import BufferCommands
from pipeline.buffer.damage import Extent, ListLook, SegmentDamaged, extent

if TYPE_CHECKING:
    from pipeline.decode.items import Items

_log = log.get(__name__)

EXTRA_PER_STEP = 500


class Reading(BufferCommands):
    """The items of a chunk."""

    def read(self, chunk: Chunk) -> Items:
        """The chunk's items from the newest to the oldest: positions ``last - 1`` down to ``first``.

        Positions count from the list's tail, which acks trim; indexes from the head never move.
        Pages are read one by one: a pipeline of them would hold Redis up for its whole length.
        Raises ``LeaseLost`` when the chunk is finished, ``SegmentDamaged`` when items of it were removed.
        """
        found = self._extent(chunk)
        self._demand(chunk, found)
        head = found.head_index + found.last - chunk.last
        with outages():
            from pipeline.decode.items import fetch  # a compiler; those who only push never come here

            items = fetch(self.client, self.keys.segment(chunk.segment), head, chunk.rows, self.page_rows)
        # If another program changed the list meanwhile, these indexes may mean other items.
        again = self._extent(chunk)
        self._demand(chunk, again)
        if len(items) != chunk.rows or again.head_index + again.last != found.head_index + found.last:
            return self.read(chunk)
        return items

    def read_at(self, chunk: Chunk, index: int) -> bytes:
        """One item of the chunk by its index from the head of the segment. Raises as ``read`` does."""
        found = self._extent(chunk)
        self._demand(chunk, found)
        shift = found.head_index - (chunk.segment_rows - found.last)
        with outages():
            item: bytes | None = self.client.lindex(self.keys.segment(chunk.segment), index + shift)
        if item is None:
            raise LeaseLost(f"segment {chunk.segment} is finished")
        return item

    def _extent(self, chunk: Chunk) -> Extent:
        """What is there of the chunk's segment; items that do not belong to it are moved to the buffer first."""
        keys = self.keys
        names = [keys.segment(chunk.segment), keys.segments, keys.sealed]
        while True:
            looked = self._run("look", names, [chunk.segment])
            if not looked:
                raise LeaseLost(f"segment {chunk.segment} is finished")
            kind, length, freed, *right = looked
            found = extent(ListLook(kind.decode(), int(length), int(freed), *map(bool, right)), chunk.segment_rows)
            if not (found.extra_newer or found.extra_older) or not self._return_extra(chunk):
                return found

    def _demand(self, chunk: Chunk, found: Extent) -> None:
        if chunk.first >= found.first and chunk.last <= found.last:
            return
        if not found.why:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is finished")
        raise SegmentDamaged(chunk.segment, found)

    def _return_extra(self, chunk: Chunk) -> int:
        keys = self.keys
        names = [keys.segment(chunk.segment), keys.sealed, keys.buffer, keys.scratch]
        moved = int(self._run("return_extra", names, [chunk.segment, EXTRA_PER_STEP]))
        _log.warning("items pushed onto a segment were moved to the buffer", segment=chunk.segment, rows=moved)
        return moved

"""How often one address may ask: a bucket of tokens for each, and a bounded number of buckets."""

from __future__ import annotations

from collections import OrderedDict


class Rates:
    """``burst`` at once, ``per_s`` in the long run, by address. Belongs to one thread."""

    def __init__(self, per_s: float, burst: int, most_addresses: int = 10_000) -> None:
        self._per_s = per_s
        self._burst = burst
        self._most = most_addresses
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, address: str, now_s: float) -> bool:
        """Take one token; False when there is none. The address that has not asked for longest is forgotten first."""
        tokens, at_s = self._buckets.pop(address, (float(self._burst), now_s))
        tokens = min(self._burst, tokens + (now_s - at_s) * self._per_s)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - allowed, now_s)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return allowed

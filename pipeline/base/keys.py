"""Every Redis key and channel this product touches, by the name the schema document gives it.

The document's keys stand as functions or constants under the database they belong to;
the pipeline's own keys hang on the buffer's name inside a hash tag, so that a
script over the buffer and them also runs on Redis Cluster.
"""

from dataclasses import dataclass

# Results (database 2 in the schema document)


def baseline(test_suite: str) -> str:
    """Hash: what is normal for a suite."""
    return f"baseline:{test_suite}"


def test_stats(test_name: str) -> str:
    """Hash: runs, passes and mean duration of one test."""
    return f"test:stats:{test_name}"


def test_history(test_name: str) -> str:
    """List: the newest executions of one test, the newest first."""
    return f"test:history:{test_name}"


def failure_pattern(error_type: str) -> str:
    """Set: the tests that failed with one type of error in the last 24 hours."""
    return f"failure:pattern:{error_type}"


FAILURE_ANALYSIS = "failure:analysis"

# Metrics (database 3)


def window_1min(window_start_s: int) -> str:
    """Hash with a TTL of an hour: the executions of one minute."""
    return f"metrics:1min:{window_start_s}"


def window_5min(window_start_s: int) -> str:
    """Hash with a TTL of six hours: the executions of five minutes."""
    return f"metrics:5min:{window_start_s}"


def cwv(browser: str, vital: str) -> str:
    """Hash: one Core Web Vital of one browser over the last hour."""
    return f"cwv:{browser}:{vital}"


COMPAT_SCORES = "compat:scores"
ALERTS_PERFORMANCE = "alerts:performance"
ALERTS_PERFORMANCE_SCRATCH = "{alerts:performance}:scratch"
"""A key of this product, in the slot of the platform's key: it never exists, see ``BufferKeys.scratch``."""
RESOURCE_CPU = "resource:cpu:usage"
RESOURCE_MEMORY = "resource:memory:usage"
RESOURCE_NETWORK = "resource:network:bandwidth"

# Notifications (database 5): channels, which know no database number

CHANNEL_ALERTS_CRITICAL = "alerts:critical"
CHANNEL_DASHBOARD_UPDATE = "dashboard:update"

# Environment state (database 6)

SOURCE = "metrics-pipeline"
"""What our own messages on channels carry as ``source``, so that they are not taken for the platform's."""

CLEANUP_STATUS = "cleanup:status"
RETENTION_PERFORMANCE_METRICS = "retention:performance_metrics"


def maintenance(environment: str) -> str:
    """String: JSON of a maintenance window of the platform, which mutes alerts of its environment."""
    return f"maintenance:{environment}"


def hash_tag(name: str) -> str:
    """What keys beside ``name`` begin with; one that carries a hash tag keeps its slot: "{a}:b" hashes as "a"."""
    return name if "{" in name else "{" + name + "}"


@dataclass(frozen=True)
class FleetKeys:
    """What belongs to all processes together, whichever buffers they serve: under the setting ``fleet.name``."""

    name: str

    @property
    def _tag(self) -> str:
        return hash_tag(self.name)

    @property
    def scheduler(self) -> str:
        """String with a TTL: who runs the schedule."""
        return f"{self._tag}:scheduler"

    @property
    def services(self) -> str:
        """Hash: running process to what it last said of itself."""
        return f"{self._tag}:services"

    @property
    def requests(self) -> str:
        """List with a TTL: what commands ask the process that holds the schedule to do."""
        return f"{self._tag}:requests"

    def answer(self, name: str) -> str:
        """Hash with a TTL: what became of one request."""
        return f"{self._tag}:answer:{name}"

    @property
    def checkpoints(self) -> str:
        """Hash: how far each job has come."""
        return f"{self._tag}:checkpoints"

    @property
    def alerts(self) -> str:
        """What the keys of the alerts begin with."""
        return f"{self._tag}:alerts"

    @property
    def adopted(self) -> str:
        """String: whose keys were copied by the first start that looked here."""
        return f"{self._tag}:adopted"


@dataclass(frozen=True)
class BufferKeys:
    """The buffer and its siblings, all in one hash slot (``{metrics:buffer}`` hashes as ``metrics:buffer``)."""

    buffer: str

    @property
    def _tag(self) -> str:
        return hash_tag(self.buffer)

    @property
    def segments(self) -> str:
        """Sorted set: sealed segments that are not wholly acknowledged, by sealing time."""
        return f"{self._tag}:segments"

    @property
    def sealed(self) -> str:
        """Hash: open segment to a second copy of its facts, with a checksum."""
        return f"{self._tag}:sealed"

    @property
    def dirty(self) -> str:
        """Hash: minute (epoch seconds) to the number of the last acknowledged touch; no number comes twice."""
        return f"{self._tag}:dirty"

    @property
    def ledger(self) -> str:
        """Hash: sealed, stored, dead_lettered, spilled, dropped, lost, set_aside, touches; since the beginning."""
        return f"{self._tag}:ledger"

    @property
    def acked(self) -> str:
        """List: acknowledged chunks on their way to the ``ledger`` table."""
        return f"{self._tag}:acked"

    @property
    def acked_junk(self) -> str:
        """List: what stood among the records of acknowledged chunks and is none; for a person."""
        return f"{self._tag}:acked:junk"

    @property
    def spilled(self) -> str:
        """Hash: "segment:chunk" to its rows, for every chunk that lies in a file on some drainer's disk."""
        return f"{self._tag}:spilled"

    @property
    def set_aside(self) -> str:
        """Hash: name of what waits for a person to when, how many items are kept and lost, and why (JSON)."""
        return f"{self._tag}:set_aside"

    def aside(self, name: str) -> str:
        """List: the items that are kept of what was set aside under this name, newest first."""
        return f"{self._tag}:aside:{name}"

    @property
    def marks(self) -> str:
        """Hash: "segment:position" of a dead letter to what was done with it, on its way to ClickHouse."""
        return f"{self._tag}:marks"

    @property
    def collected(self) -> str:
        """Hash: what collectors have seen of the platform's keys; changes in the script that pushes what is new."""
        return f"{self._tag}:collected"

    @property
    def scratch(self) -> str:
        """Never exists; deleting it first lets a script run when memory is full."""
        return f"{self._tag}:scratch"

    @property
    def checkpoints(self) -> str:
        """Hash: which start of Redis was tidied after, and how far the audit has come."""
        return f"{self._tag}:checkpoints"

    def kind(self, key: str) -> str:
        """The type of a key in Redis's words."""
        if key == self.segments:
            return "zset"
        lists = (self.buffer, self.acked, self.acked_junk)
        is_list = key in lists or key.startswith((self.aside(""), self.segment("")))
        return "list" if is_list and not key.endswith((":meta", ":leases")) else "hash"

    def report(self, digest: str) -> str:
        """String with a TTL: one batch of a report is in the buffer; how many items it was."""
        return f"{self._tag}:report:{digest}"

    def segment(self, name: str) -> str:
        """List: the items of one sealed segment, newest first; never appended to."""
        return f"{self._tag}:segment:{name}"

    def meta(self, name: str) -> str:
        """Hash: rows, chunk boundaries and sealing time of one segment."""
        return f"{self._tag}:segment:{name}:meta"

    def leases(self, name: str) -> str:
        """Hash: chunk number to who holds it, until when, and how often it was tried."""
        return f"{self._tag}:segment:{name}:leases"

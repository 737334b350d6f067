"""What can go wrong, in the words the operator reads.

Three kinds, and nothing in between: an *outage* is retried for ever and costs no
item anything; *refused data* goes to the dead letters with its reason; *wrong use*
(configuration, arguments) stops the command with exit code 2 and one sentence.
Anything else is a bug and is meant to be loud.
"""

from pipeline.base.text import masked


class PipelineError(Exception):
    """Base of every error this package raises on purpose; its text never shows a password or a token."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*(masked(part) if isinstance(part, str) else part for part in parts))


class UsageError(PipelineError):
    """Wrong use: the sentence names the argument and what would be right. Exit code 2."""


class ConfigError(UsageError):
    """A setting is wrong: the sentence names the key, the value and the nearest valid name. Exit code 2."""


class RuleError(UsageError):
    """An alert rule is wrong: the sentence names file, line and the nearest valid name. Exit code 2."""


class Outage(PipelineError):
    """A neighbour (Redis or ClickHouse) does not answer or asks to come back later. Retried for ever."""


class RedisOutage(Outage):
    """Redis cannot be reached, is loading, or refuses writes for the moment."""


class RedisDenied(RedisOutage):
    """Redis refuses our user, our password or one of our commands: an outage until password or ACL are right again."""


class KeyDamaged(RedisOutage):
    """A key of the pipeline does not hold what it should; the sentence names key, what was found, and the fix.

    A kind of outage: whatever needs the key waits and says so, everything else goes on.
    """

    def __init__(self, key: str, found: str, expected: str) -> None:
        super().__init__(
            f"the Redis key {key} holds {found} instead of {expected}: another program wrote to it. "
            f"Rename or delete it (RENAME {key} {key}:old); until then whatever needs it waits"
        )
        self.key = key


class StoreOutage(Outage):
    """ClickHouse cannot be reached, timed out, or answered with a code that is worth a retry.

    ``code`` is ClickHouse's error number, 0 when it gave none.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class StoreRefused(PipelineError):
    """ClickHouse refused these rows or this statement; the same again would be refused again.

    ``code`` is ClickHouse's error number, 0 when it gave none.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class LeaseLost(PipelineError):
    """A chunk's lease ran out and another drainer holds it; that drainer reads back what was written."""


class SchemaMismatch(PipelineError):
    """More than half of what arrives is refused: this looks like the schema, not the data. Draining stops."""


class MigrationError(PipelineError):
    """An applied migration no longer matches its file, or one failed half-way."""


class EngineBusy(PipelineError):
    """The embedded store's directory is held by another process; the sentence names it."""


class Stopped(PipelineError):
    """The process was told to stop while it worked or waited; what was not done is done after the next start."""


class EngineRights(PipelineError):
    """The embedded engine does not enforce the analyst role; no query is answered."""

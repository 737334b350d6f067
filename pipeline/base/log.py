"""Structured logs on stderr: the event's text is constant, facts stand beside it as fields.

    log = log.get(__name__)
    log.info("chunk acknowledged", segment=name, chunk=3, rows=50_000)

Pretty on a terminal, one JSON object per line elsewhere; times in UTC. What the libraries say
(apscheduler, redis, urllib3) goes the same way. No password and no token is ever written.
Until ``configure`` is called the standard library decides, so that a test suite which only
imports the client sees nothing but warnings.
"""

import logging
import sys
from typing import Any, cast

import structlog
from structlog.typing import EventDict, Processor

from pipeline.base.config import LogSettings
from pipeline.base.text import masked, printable

OWN_LOGGER = "pipeline"
_MANY_LINES = ("exception", "stack")
_FIRST_KEYS = ("timestamp", "level", "logger", "event")


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; ``name`` is its ``__name__``."""
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return cast(structlog.stdlib.BoundLogger, logger)


def configure(settings: LogSettings) -> None:
    """Send all logs of this process to stderr; called again, it replaces what it did before."""
    pretty = settings.format == "pretty" or (settings.format == "auto" and sys.stderr.isatty())
    handler = _StderrHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *(_PRETTY if pretty else _JSON)],
        )
    )
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    logging.getLogger(OWN_LOGGER).setLevel(level)
    # At info apscheduler alone writes two lines per job run.
    root.setLevel(logging.INFO if level == logging.DEBUG else max(level, logging.WARNING))
    logging.captureWarnings(True)


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to whatever ``sys.stderr`` is at that moment: a live display in the terminal replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _known_keys_first(_logger: Any, _method: str, facts: EventDict) -> EventDict:
    return {key: facts[key] for key in _FIRST_KEYS if key in facts} | dict(facts)


def _harmless(_logger: Any, _method: str, facts: EventDict) -> EventDict:
    """Last of all: no fact, nested or in the text of an exception, shows a secret or moves the terminal's cursor."""
    return {name: _without_secrets(fact, keep_lines=name in _MANY_LINES) for name, fact in facts.items()}


def _without_secrets(fact: Any, *, keep_lines: bool = False) -> Any:
    if fact is None or isinstance(fact, bool | int | float):
        return fact
    if isinstance(fact, dict):
        return {printable(masked(str(name))): _without_secrets(inner) for name, inner in fact.items()}
    if isinstance(fact, list | tuple | set | frozenset):
        return [_without_secrets(inner) for inner in fact]
    text = fact if isinstance(fact, str) else repr(fact)
    return printable(masked(text), keep_lines=keep_lines)


_SHARED: list[Processor] = [
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_JSON: list[Processor] = [
    structlog.processors.format_exc_info,
    _known_keys_first,
    _harmless,
    structlog.processors.JSONRenderer(),
]
_PRETTY: list[Processor] = [
    structlog.processors.format_exc_info,
    _harmless,
    structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback),
]

"""The platform's own schema document, and its examples as commands for a real Redis."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis

DOCUMENT = Path(__file__).with_name("redis-schema.md")
_DATABASE = re.compile(r"^## Database (\d): ", re.MULTILINE)
_BLOCK = re.compile(r"^```redis\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def examples(names: Mapping[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Each example of the document as (database, command), placeholders replaced by ``names`` (or by themselves)."""
    text = DOCUMENT.read_text(encoding="utf-8").partition("## Redis Configuration")[0]
    parts = _DATABASE.split(text)[1:]
    for number, section in zip(parts[::2], parts[1::2], strict=True):
        for block in _BLOCK.findall(section):
            for words in _commands(block):
                yield int(number), [_PLACEHOLDER.sub(lambda one: names.get(one[1], one[1]), word) for word in words]


def _commands(block: str) -> Iterator[list[str]]:
    """As redis-cli takes them: a quoted value may span lines, what follows a # is a comment."""
    held = ""
    for line in block.splitlines():
        held += line + "\n"
        try:
            words = shlex.split(held, comments=True)
        except ValueError:  # a quote is still open
            continue
        held = ""
        if words:
            yield words


def run(client: redis.Redis, words: list[str]) -> None:
    """Literally; ``INCR key EX n`` and its like, which are no commands, as the INCR and the EXPIRE that are meant."""
    try:
        client.execute_command(*words)
    except redis.ResponseError:
        assert words[0] in ("INCR", "INCRBYFLOAT") and words[-2] == "EX", words
        client.execute_command(*words[:-2])
        client.expire(words[1], int(words[-1]))

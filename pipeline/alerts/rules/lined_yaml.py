"""YAML that remembers its line numbers, so that a mistake is reported where it stands.

Whatever a file holds, reading it gives a document or problems, never an exception, and what is shown
of a value is short: aliases may make a small file stand for an enormous one.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import yaml

from pipeline.base.text import printable

Problem = tuple[int, str]
"""Line (from 1; 0 when there is none) and what is wrong, in words."""

MAX_FILE_BYTES = 4_000_000
MAX_OPEN_BRACKETS = 100

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlevel, _short.maxlist, _short.maxdict = 2, 4, 4


def shown(value: Any) -> str:
    """A value for a sentence about it: its beginning, with escapes for what does not print."""
    return _short.repr(value)


class Mapping(dict[str, Any]):
    """A YAML mapping that knows the line of each of its keys; keys written twice are in ``repeated``."""

    def __init__(self) -> None:
        super().__init__()
        self.line = 0
        self.lines: dict[str, int] = {}
        self.repeated: list[str] = []


class _Loader(yaml.SafeLoader):
    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        # At each bracket PyYAML looks at all open ones again: 3,000 of them would take two seconds.
        if self.flow_level >= MAX_OPEN_BRACKETS:
            raise yaml.scanner.ScannerError(None, None, "nested too deeply", self.get_mark())
        super().fetch_flow_collection_start(token)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Any:
    found = Mapping()
    found.line = node.start_mark.line + 1
    yield found
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
        key = str(key_node.value)
        if key in found:
            found.repeated.append(key)
        found[key] = loader.construct_object(value_node, deep=True)
        found.lines[key] = key_node.start_mark.line + 1


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_file(path: Path) -> tuple[Any, list[Problem]]:
    """The document in the file ``path``; what keeps it from being read comes as the one problem."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return None, [(0, error.strerror or str(error))]
    except ValueError as error:  # a NUL in the name
        return None, [(0, str(error))]
    if len(content) > MAX_FILE_BYTES:
        return None, [(0, f"larger than {MAX_FILE_BYTES // 1_000_000} MB, which no file of rules is")]
    try:
        return read(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, [(content.count(b"\n", 0, error.start) + 1, "not UTF-8")]


def read(text: str) -> tuple[Any, list[Problem]]:
    """The document in ``text``, mappings as ``Mapping``; a syntax error comes as the one problem and no document."""
    try:
        return yaml.load(text, _Loader), []
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        return None, [(place.line + 1 if place else 0, f"not YAML: {printable(said)[:300]}")]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [(line, f"not YAML: the character U+{error.character:04X} is not allowed")]
    except yaml.YAMLError as error:
        return None, [(0, f"not YAML: {shown(' '.join(str(error).split()))}")]
    except RecursionError:
        return None, [(0, "nested too deeply")]
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError) as error:  # a date that is none
        return None, [(0, f"a value cannot be read: {shown(str(error))}")]

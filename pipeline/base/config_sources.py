"""Where settings come from: a YAML file, environment variables, secret files. Everything as it was given, unchecked.

Every value keeps its origin for ``pipeline config show``. What cannot be read, is given twice or is
meant for us and misspelt raises ``ConfigError``; no sentence repeats a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.base.errors import ConfigError
from pipeline.base.nearest import closest
from pipeline.base.text import printable

ENV_PREFIX = "PIPELINE_"
CONFIG_PATH_VARIABLE = "PIPELINE_CONFIG"

_CLIENT_VARIABLES = frozenset({"PIPELINE_RUN_ID", "PIPELINE_COMMIT", "PIPELINE_BRANCH", "PIPELINE_JOB"})
_MAX_FILE_BYTES = 1 << 20


@dataclass
class Given:
    """What was given: values nested as in the file, and for each dotted path where it came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def gather(path: Path | None, environment: Mapping[str, str], known: Collection[str], texts: Collection[str]) -> Given:
    """Merge the file and the environment, which wins.

    ``known`` are the dotted paths of all settings, ``texts`` those that are plain text: what stands in a
    variable for one of those is never read as JSON.
    """
    given = Given()
    if path is not None:
        given.values = _read_yaml(path)
        given.origins = dict.fromkeys(_leaves(given.values, known), f"file {path}")
    for variable, text in sorted(environment.items()):
        name = variable.upper()
        if not name.startswith(ENV_PREFIX) or name == CONFIG_PATH_VARIABLE or name in _CLIENT_VARIABLES:
            continue
        setting, is_file = _meant(name, known)
        if setting:
            _demand_utf8(name, text)
            _take(given, variable, setting, is_file, text, known, texts)
    return given


def _demand_utf8(variable: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{variable} is not UTF-8 text: character {error.start} is the first wrong one") from None


def variable_of(setting: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + setting.upper().replace(".", "__")


def _take(
    given: Given,
    variable: str,
    setting: str,
    is_file: bool,
    text: str,
    known: Collection[str],
    texts: Collection[str],
) -> None:
    before = given.origins.get(setting, "")
    if before.startswith(("variable ", "secret ")):
        raise ConfigError(f"{variable} and {before.rpartition(' ')[2]} both set '{setting}'; keep one of them")
    if is_file:
        text = _read_secret(variable, text)
    value = text if setting in texts else _parse_text(text)
    *parents, leaf = setting.split(".")
    node = given.values
    for parent in parents:
        inner = node.setdefault(parent, {})
        if inner is None:  # a section of the file without any entry
            inner = node[parent] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"'{parent}' is a section of settings, but is given one value, which {variable} changes")
        node = inner
    if isinstance(value, dict) and isinstance(node.get(leaf), dict):
        _merge(node[leaf], value)
    else:
        node[leaf] = value
    origin = f"secret file of {variable}" if is_file else f"variable {variable}"
    for one in [setting, *_leaves(value, known, f"{setting}.")]:
        given.origins[one] = origin


def _meant(name: str, known: Collection[str]) -> tuple[str, bool]:
    """The setting that a variable names, and whether it names a file with the value; empty for foreign variables.

    A double underscore behind a section, or nearly a section, makes it the pipeline's even where the rest is unknown;
    the check of the settings refuses it. Raises ``ConfigError`` where section and key match but for the underscores.
    """
    body = name.removeprefix(ENV_PREFIX).lower()
    sections = _sections(known)
    for text, is_file in ((body, False), (body.removesuffix("_file"), body.endswith("_file"))):
        setting = text.replace("__", ".")
        if setting in known or setting in sections:
            return setting, is_file
    flat = {one.replace(".", "").replace("_", ""): one for one in known}
    letters = body.replace("_", "")
    for text, suffix in ((letters, ""), (letters.removesuffix("file"), "_FILE")):
        if text in flat:
            meant = flat[text]
            raise ConfigError(f"{name} is not a setting; did you mean {variable_of(meant)}{suffix} for '{meant}'?")
    section, separator, _ = body.partition("__")
    if separator and closest(section, sections):
        return body.replace("__", "."), False
    return "", False


def _sections(known: Collection[str]) -> set[str]:
    return {".".join(one.split(".")[:depth]) for one in known for depth in range(1, one.count(".") + 1)}


def _leaves(value: Any, known: Collection[str], prefix: str = "") -> Iterable[str]:
    """The dotted paths of all settings in a nested mapping."""
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{prefix}{name}"
            if path in known:
                yield path
            else:
                yield from _leaves(inner, known, f"{path}.")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _parse_text(text: str) -> Any:
    """Lists and mappings are written as JSON in a variable; everything else stays text for pydantic to convert."""
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


# Files


def _read_secret(variable: str, path: str) -> str:
    # What is no absolute path is not repeated: it may be the secret itself, given to the wrong variable.
    named = f", '{printable(path)}'," if path.startswith("/") else ""
    return _read(Path(path), f"the file that {variable} names{named}").strip()


def _read(path: Path, shown: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or 'no such name'}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"{shown} is larger than {_MAX_FILE_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown} is not UTF-8 text: byte {error.start} is the first wrong one") from None


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key may be given once."""


def _strict_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _GivenTwiceError(key.value, lines[key.value], line)
            lines[key.value] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _plain_number(loader: _StrictLoader, node: yaml.ScalarNode) -> Any:
    """What YAML 1.1 takes for a number of base 60 or 8 is a slip: ``1:30`` would be 90, and ``010`` would be 8."""
    text = loader.construct_scalar(node)
    if ":" in text or re.fullmatch(r"[-+]?0[\d_]+", text):
        return text
    return loader.construct_yaml_float(node) if node.tag.endswith(":float") else loader.construct_yaml_int(node)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _strict_mapping)
for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _plain_number)


class _GivenTwiceError(Exception):
    """A key stands twice in one mapping."""


def _read_yaml(path: Path) -> dict[str, Any]:
    shown = f"configuration file '{printable(str(path))}'"
    text = _read(path, shown)
    try:
        loaded = yaml.load(text, _StrictLoader)
    except _GivenTwiceError as error:
        key, first, second = error.args
        raise ConfigError(f"{shown} gives {_shown_key(key)} twice, in lines {first} and {second}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{shown} is not YAML: {_problem(error)}") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
        what = "it holds a control character" if isinstance(error, yaml.YAMLError) else "a value in it cannot be read"
        raise ConfigError(f"{shown} is not YAML: {what}") from None
    except RecursionError:
        raise ConfigError(f"{shown} is nested too deep") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{shown} must hold a mapping, not a {type(loaded).__name__}")
    return loaded


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Where and what, without the words that the parser quotes: a password that is not quoted is among them."""
    place = error.problem_mark or error.context_mark
    where = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
    what = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", error.problem or "it cannot be parsed")
    if isinstance(error, yaml.constructor.ConstructorError) and "tag" not in what:
        return f"{where}{what}"
    return f"{where}{what} (a value with one of : # & * ! | > % @ ` {{ }} [ ] must stand in quotes)"


def _shown_key(key: str) -> str:
    return f"'{key}'" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", key) else "a key"

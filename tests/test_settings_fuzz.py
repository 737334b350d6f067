"""Random settings files, environments and command lines: valid, or one sentence and exit 2, and never a secret.

What is tried is made of our own names and of junk: real sections and keys with values of any type in them, near
misses of names, broken YAML and broken URLs. ``pipeline validate`` judges the settings as ``pipeline run`` does.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base import config
from pipeline.base.errors import ConfigError
from pipeline.cli import main

SECRET = "hunter2Xy"
"""Part of values wherever a secret may stand, also a misplaced one."""

PATHS = [path for path, _, _ in config.setting_paths()]
SECTIONS = sorted({path.partition(".")[0] for path in PATHS})

URLS = st.sampled_from(
    [
        f"redis://:{SECRET}@h:6379",
        f"redis://u:{SECRET}/x@h",
        f"redis://:{SECRET}@h:port",
        f"rediss://:{SECRET}@[::1",
        f"https://u:{SECRET}@h:99999/x?y=%zz",
        f"https://u:{SECRET}@",
        f"unix://:{SECRET}@/tmp/x?db={SECRET}",
        f"://{SECRET}@",
        f"clickhouse://{SECRET}:{SECRET}@h:x",
        f"redis://h/{SECRET}",
        f"redis://h?password={SECRET}&nonsense=1",
    ]
)
JUNK_TEXTS = st.text(max_size=8) | st.sampled_from(
    ["", "1h", "-1s", "nan", "1e999", "\x1b[31m", "a\x00b", "${X}", "!!python"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | URLS
    | JUNK_TEXTS
    | st.sampled_from([0, 1, 60, "embedded"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "kind", "url", "ur1", "headers", "pattern", "type", "x"]) | JUNK_TEXTS,
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@st.composite
def names(draw: st.DrawFn) -> str:
    """A setting's dotted path, now and then misspelt, or a section, or something else."""
    path = draw(st.sampled_from(PATHS))
    how = draw(st.integers(0, 9))
    if how == 0:
        place = draw(st.integers(0, len(path) - 1))
        return path[:place] + path[place + 1 :]
    if how == 1:
        return draw(st.sampled_from(SECTIONS))
    return f"{path}.x" if how == 2 else path


def nested(given_: list[tuple[str, Any]]) -> dict[str, Any]:
    """Dotted paths as a settings file holds them."""
    found: dict[str, Any] = {}
    for path, value in given_:
        node = found
        *parents, leaf = path.split(".")
        for parent in parents:
            inner = node.setdefault(parent, {})
            if not isinstance(inner, dict):
                inner = node[parent] = {}
            node = inner
        node[leaf] = value
    return found


BROKEN = st.sampled_from(
    [
        f"redis: {{url: redis://:{SECRET}@h",
        f"redis:\n\turl: {SECRET}",
        f"- {SECRET}",
        f"{SECRET}",
        f"? [a, b]\n: {SECRET}",
        f"redis:\n  url: {SECRET}\nredis:\n  url: {SECRET}",
        f"a: &a [*a, {SECRET}]",
        "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]",
        f"redis: !!python/object/apply:os.system ['{SECRET}']",
        f"redis: !x {SECRET}",
        f"1: {SECRET}\nnull: {SECRET}\n2026-01-01: {SECRET}",
        f"redis: {{<<: {SECRET}}}",
        f"redis: {{url: 2026-13-45}}\n---\n{SECRET}: 1",
        f"redis: {{url: !!int {SECRET}}}",
        f"redis: {{url: !!binary {SECRET}}}",
        f"redis: {{url: !!timestamp {SECRET}}}",
        f"redis: {{url: !!float {SECRET}}}",
        f"drainer: {{batch_rows: !!bool {SECRET}}}",
        f"@{SECRET}",
        "[" * 3000 + SECRET,
        "x" * (1 << 21),
        "\x00",
        "\ufeffredis: {}",
        "",
    ]
)
FILES = st.lists(st.tuples(names(), VALUES), max_size=4).map(
    lambda pairs: yaml.safe_dump(nested(pairs), allow_unicode=True)
)


@st.composite
def environments(draw: st.DrawFn) -> dict[str, str]:
    """The product's variables, misspelt ones, and secret files that do not exist."""
    found = {}
    for _ in range(draw(st.integers(0, 3))):
        name = config.ENV_PREFIX + draw(names()).upper().replace(".", draw(st.sampled_from(["__", "__", "__", "_"])))
        value = draw(SCALARS | VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True)))
        # The operating system takes no NUL and no lone halves of characters.
        text = str(value).replace("\x00", "").encode("utf-8", "ignore").decode()
        found[name + draw(st.sampled_from(["", "", "", "_FILE"]))] = text
    return found


def loaded(text: str | bytes, environment: dict[str, str], directory: Path) -> str:
    """The sentence of the refusal; empty when the settings are valid. Anything but a ``ConfigError`` is a bug."""
    path = directory / "pipeline.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    try:
        config.load(path, environment)
    except ConfigError as refused:
        return str(refused)
    return ""


def check_load(text: str | bytes, environment: dict[str, str], directory: Path) -> None:
    said = loaded(text, environment, directory)
    assert SECRET not in said
    assert all(letter.isprintable() or letter in "\n\t" for letter in said), said


def examples_of(request: pytest.FixtureRequest, few: int, many: int) -> int:
    return many if request.config.getoption("--long") else few


@pytest.mark.timeout(0)  # thousands of examples with --long
def test_any_settings_load_or_are_refused_in_words(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Whatever stands in file and environment: settings, or a sentence without a secret and control codes."""

    @settings(max_examples=examples_of(request, 60, 2_000))
    @given(FILES | BROKEN | st.binary(max_size=40), environments())
    def check(text: str | bytes, environment: dict[str, str]) -> None:
        check_load(text, environment, tmp_path)

    check()


# The command line


def commands(group: click.Group, before: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in group.commands.items():
        found += (
            commands(command, (*before, name)) if isinstance(command, click.Group) else [((*before, name), command)]
        )
    return found


COMMANDS = commands(main.cli)
PLAIN = st.sampled_from(["-", "--", "/nowhere", "1", "-1", "1h", "x=y"])
WORDS = JUNK_TEXTS.map(lambda text: text.replace("\x00", "")) | URLS | PLAIN


@st.composite
def wrong_lines(draw: st.DrawFn) -> list[str]:
    """A command with options it has, options it has not, and words in their places."""
    words, command = draw(st.sampled_from(COMMANDS))
    line = list(words)
    options = [name for one in command.params if isinstance(one, click.Option) for name in one.opts if name != "--help"]
    for _ in range(draw(st.integers(0, 3))):
        if options and draw(st.booleans()):
            line.append(draw(st.sampled_from(options)))
        if draw(st.booleans()):
            line.append(draw(WORDS))
    # Two of them: an option before them may take the first for its value.
    return [*line, "--no-such-option", draw(st.sampled_from(["--jsn", f"--url={SECRET}", "--=", "--\u202e"]))]


def run(line: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and all that was printed, by the way the process itself goes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(config.ENV_PREFIX)}
    out, code = io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, kept | environment, clear=True),
        mock.patch.object(sys, "argv", ["pipeline", *line]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        try:
            main._run()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return code, out.getvalue()


@pytest.mark.timeout(0)
def test_wrong_lines_end_in_a_sentence(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Options that a command does not have: exit 2, no traceback, nothing opened, no control code on the terminal."""

    @settings(max_examples=examples_of(request, 25, 500))
    @given(wrong_lines())
    def check(line: list[str]) -> None:
        data = tmp_path / "data"
        code, text = run(line, {"PIPELINE_REDIS__URL": "redis://127.0.0.1:1", "PIPELINE_DATA_DIR": str(data)})
        assert code == 2, (line, text)
        assert "Traceback" not in text
        assert "\x1b" not in text
        assert not data.exists(), line

    check()


@pytest.mark.timeout(0)
def test_validate_takes_any_settings(request: pytest.FixtureRequest) -> None:
    """``validate`` and ``config show`` over junk: 0, or one sentence on stderr and 2, and never a secret."""

    @settings(max_examples=examples_of(request, 25, 500))
    @given(st.sampled_from(["validate", "config show"]), FILES | BROKEN, environments())
    def check(command: str, text: str, environment: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "pipeline.yaml"
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            code, said = run(
                command.split(), {"PIPELINE_CONFIG": str(path), "PIPELINE_DATA_DIR": directory} | environment
            )
        assert code in (0, 2), said
        assert "Traceback" not in said
        assert SECRET not in said
        assert "\x1b" not in said
        if code == 2:
            assert len(said.strip().splitlines()) == 1, said

    check()

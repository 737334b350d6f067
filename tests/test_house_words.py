"""One word for one thing: the words of the glossary, the names that code gives, and the texts that people read."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from house_rules import holds, none_of
from test_house_claims import MODULES, ROOT, here, last_name, tree_of

RIDDLES = re.compile(
    r"\b(?:nobody|somebody|everybody|anybody|someone|anyone|whoever|ours)\b|(?<!@)\beveryone\b", re.IGNORECASE
)
KINDS = ("py", "lua", "sql", "yaml", "yml", "md", "js", "html", "css", "conf", "xml", "json", "toml", "txt")


def texts() -> Iterator[Path]:
    """Every file of the project that a person may read, without other people's libraries and recorded reports."""
    folders = [ROOT / name for name in ("pipeline", "config", "sql", "tests")]
    for file in [*ROOT.glob("*.*"), ROOT / "Makefile", *(file for folder in folders for file in folder.rglob("*.*"))]:
        if file.suffix[1:] in KINDS and not {"vendor", "reports", "golden", "__pycache__"} & set(file.parts):
            yield file


def test_texts_name_who_does_it() -> None:
    """Every sentence names the person or program that acts; a variable of a test may be called otherwise."""
    found = {
        (here(file), word[0])
        for file in texts()
        if file.name not in (Path(__file__).name, "redis-schema.md")
        for word in RIDDLES.finditer(file.read_text(encoding="utf-8"))
        if not ("tests" in file.parts and word[0] == "ours")
    }
    none_of(found, "Write which program or person is meant instead of this word")


@dataclass(frozen=True)
class Word:
    """Where names may contain a word (``rooms``), and which names may anywhere (``terms``, a regular expression).

    ``alone``: only a name that is the word and nothing else is held to its room. ``is_noun``: functions are left out.
    """

    rooms: tuple[str, ...]
    terms: str = "(?!)"
    alone: bool = False
    is_noun: bool = False


ONE_MEANING = {
    "ledger": Word(("base/keys.py", "deliver/"), alone=True),
    "books": Word(("bench/", "buffer/", "client/", "deliver/", "demo/", "operate/"), alone=True),
    "dead": Word(("deliver/", "operate/audit.py"), alone=True),
    "buried": Word(("deliver/",), alone=True),
    "fault": Word(("deliver/",), alone=True),
    # HTTP and ClickHouse have errors of these names.
    "bad": Word((), terms="max_bad_share|_?BAD_REQUEST|BadRequest|_?BAD_ARGUMENTS"),
    "mark": Word(("base/keys.py", "buffer/notes.py", "deliver/dead_letters.py"), terms="_?BYTE_ORDER_MARK"),
    "level": Word(
        ("analyse/", "alerts/judge/entry_views.py", "bench/changes.py", "bench/shapes.py", "base/log", "base/config"),
        terms="log_level",
    ),
    # Stands in the outboxes of Redis.
    "seen": Word((), terms="_?last_seen(_m?s)?|seen_ms"),
    "run": Word(
        ("analyse/", "bench/", "client/", "demo/", "jobs/", "base/config", "cli/push.py", "metric.py"),
        terms="run_id|RunsJob|runs|dry_run",
        is_noun=True,
    ),
    # A message on a channel carries the field "source"; pydantic calls a method of that name.
    "source": Word(("alerts/", "base/keys.py"), terms="settings_customise_sources"),
    "progress": Word(
        ("cli/", "jobs/rebuild.py", "collect/check.py", "alerts/commands.py", "operate/commands.py"),
    ),
    "finding": Word(("operate/", "cli/", "collect/check.py", "web/pulse.py")),
    # ClickHouse has settings too: in pipeline/embedded they are called query settings.
    "setting": Word(
        ("alerts/", "base/", "bench/", "buffer/", "cli/", "client/", "collect/", "decode/", "deliver/", "demo/",
         "jobs/", "metric.py", "operate/", "serve/", "store/", "web/"),
        alone=True,
    ),
}  # fmt: skip
"""Words that the glossary gives one meaning."""


@cache
def names_of(file: Path) -> frozenset[tuple[str, bool]]:
    return frozenset(names_in(tree_of(file)))


def names_in(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Every name that code gives, and whether it is a function's; a field of a log line is one, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, isinstance(node, ast.FunctionDef)
        elif isinstance(node, ast.arg):
            yield node.arg, False
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield last_name(node), False
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and last_name(node.func.value) == "_log"
        ):
            yield from ((keyword.arg, False) for keyword in node.keywords if keyword.arg)


def singular(text: str) -> str:
    return text.lower().removesuffix("s")


def misused(word: str, rule: Word, file: str, names: Iterable[tuple[str, bool]]) -> set[tuple[str, str, str]]:
    """(word, file, name) for each name that uses the word outside its room."""
    if file.startswith(rule.rooms):
        return set()
    found = set()
    for name, is_function in names:
        parts = [name.strip("_")] if rule.alone else re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
        is_exempt = re.fullmatch(rule.terms, name) or (rule.is_noun and is_function)
        if singular(word) in map(singular, parts) and not is_exempt:
            found.add((word, file, name))
    return found


def test_a_word_means_one_thing() -> None:
    """Names of classes, functions, variables and log fields use a word of the glossary only in its rooms."""
    found = {
        one
        for file in MODULES
        for word, rule in ONE_MEANING.items()
        for one in misused(word, rule, here(file).removeprefix("pipeline/"), names_of(file))
    }
    none_of(found, "Uses a word of the glossary for something else (word, file, name); choose another name")


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("mark", "high_water_mark = 1"),
        ("level", "class LogLevel: ..."),
        ("seen", "seen = set()"),
        ("run", "def f(run): ..."),
        ("source", "self.chunk_sources = []"),
        ("finding", "class Findings: ..."),
        ("setting", "settings = {}"),
        ("mark", "_log.info('x', mark=1)"),
    ],
)
def test_a_word_outside_its_room_is_found(word: str, code: str) -> None:
    """The check above fails for a class, an argument, a variable, an attribute, a log field of another meaning."""
    found = misused(word, ONE_MEANING[word], "embedded/new.py", names_in(ast.parse(code)))
    holds(found, f"'misused' of this file no longer finds {word!r} in {code!r}")


def test_the_glossary_has_every_word() -> None:
    """Each of these words stands in the glossary of the README or in the words of the code, once in all."""
    pages = (ROOT / "README.md").read_text() + (ROOT / "pipeline/README.md").read_text()
    counted = {word: pages.count(f"| {word} |") for word in ONE_MEANING}
    wrong = {(word, f"{count} rows") for word, count in counted.items() if count != 1}
    none_of(wrong, "Needs one row in the glossary of README.md or in the words of pipeline/README.md")


def test_the_glossary_is_short() -> None:
    """The README explains ten to twenty words."""
    table = (ROOT / "README.md").read_text().partition("| word | means |\n|---|---|\n")[2].partition("\n\n")[0]
    words = len(table.splitlines())
    holds(10 <= words <= 20, f"The glossary of README.md explains {words} words; 10 to 20 are read at once")


RETIRED = {"strangers", "hash_text", "merged", "surroundings", "common", "helpers", "utils", "misc"}
"""Names of modules that say nothing of what is inside."""


def test_a_class_name_means_one_thing() -> None:
    """No two public classes of the package share a name."""
    places: dict[str, list[str]] = {}
    for file in MODULES:
        for node in tree_of(file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(here(file))
    twice = {(name, ", ".join(files)) for name, files in places.items() if len(files) > 1}
    none_of(twice, "Two public classes share a name; rename one, so that a search finds one thing")


def test_module_names_say_what_is_inside() -> None:
    """No module has a name that was retired for saying nothing."""
    none_of(
        {here(file) for file in MODULES if file.stem in RETIRED}, "The name says nothing of what is inside; rename it"
    )

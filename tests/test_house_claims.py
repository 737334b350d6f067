"""Nothing is announced that is not there: settings, failpoints, tables of files, answers to three questions, errors."""

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from house_rules import holds, none_of
from pydantic import BaseModel

from pipeline.base import config
from pipeline.deliver.chunk_state import Phase

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def nodes_of(file: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(file)))


def here(file: Path) -> str:
    return str(file.relative_to(ROOT))


def strings_in(file: Path) -> set[str]:
    return {node.value for node in nodes_of(file) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def last_name(node: ast.AST | None) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


# Settings


def sections(model: type[BaseModel] = config.Settings) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every part of the settings with the name of the field that holds it."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield name, inner
            yield from sections(inner)


def settings_read_in(file: Path, classes: dict[str, type[BaseModel]], names: dict[str, str]) -> set[tuple[str, str]]:
    """(class of the settings, field) for each field that the file reads from something that holds such settings."""
    known = dict(names)
    for node in nodes_of(file):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            kind = ast.unparse(node.annotation).split(" ")[0].rpartition(".")[2]
            if kind in classes:
                known[node.arg if isinstance(node, ast.arg) else last_name(node.target)] = kind
    for node in nodes_of(file):
        if isinstance(node, ast.Assign) and last_name(node.value) in known:
            known[last_name(node.targets[0])] = known[last_name(node.value)]
    return {
        (known[last_name(node.value)], node.attr)
        for node in nodes_of(file)
        if isinstance(node, ast.Attribute) and last_name(node.value) in known
    }


def test_every_setting_is_read() -> None:
    """Code outside the settings themselves reads every setting; a database of Redis is read by opening it."""
    classes = {"Settings": config.Settings, **{kind.__name__: kind for _, kind in sections()}}
    names = {"settings": "Settings", **{name: kind.__name__ for name, kind in sections()}}
    files = [file for file in MODULES if not file.name.startswith("config")]
    read = {found for file in files for found in settings_read_in(file, classes, names)}
    opened = {name for file in files for name in strings_in(file)}
    read |= {("RedisDatabases", name) for name in config.RedisDatabases.model_fields if name in opened}
    declared = {(kind, field) for kind, model in classes.items() for field in model.model_fields}
    assert len(declared) > 80
    unread = {f"{kind}.{field}" for kind, field in declared - read}
    none_of(unread, "No code reads this setting; remove it, or read it where it is meant to work")


# Failpoints


def failpoints_in(file: Path) -> Iterator[ast.expr]:
    for node in nodes_of(file):
        if isinstance(node, ast.Call) and last_name(node.func) == "hit":
            yield node.args[0]


def test_every_failpoint_is_visited() -> None:
    """Each failpoint has a fixed name, stands once in the code, and a test kills or fails something there."""
    points = [name for file in MODULES if file.name != "failpoints.py" for name in failpoints_in(file)]
    names = [name.value for name in points if isinstance(name, ast.Constant)]
    assert len(names) > 30
    computed = [ast.unparse(name) for name in points if not isinstance(name, ast.Constant)]
    none_of(computed, "The name of a failpoint is computed; write it out, so that a search finds it")
    none_of({name for name in names if names.count(name) > 1}, "Two places of the code share the name of a failpoint")
    visited = {re.split(r"[:=]", part)[0] for file in TESTS for text in strings_in(file) for part in text.split()}
    none_of(set(names) - visited, "No test kills or fails anything at this failpoint; write one that names it")


# Tables and drawings


FOLDER_PAGES = sorted((ROOT / "pipeline").rglob("README.md"))


@pytest.mark.parametrize("page", FOLDER_PAGES, ids=here)
def test_tables_of_files_are_whole(page: Path) -> None:
    """A page that lists the files of its folder lists all of them, and only files that exist."""
    rows = re.findall(r"^\| (`[^|]*) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)}
    there = {str(file.relative_to(page.parent)) for file in page.parent.rglob("*.py") if file.name != "__init__.py"}
    gone = {name for name in listed if not (page.parent / name).exists() and not (ROOT / name).exists()}
    none_of(gone, f"{here(page)} lists a file that does not exist")
    if listed & {file.name for file in page.parent.glob("*.py") if file.name != "metric.py"}:
        text = page.read_text(encoding="utf-8")
        covered = {name for name in there if f"`{name}`" in text or name.partition("/")[0] + "/" in text}
        none_of(there - covered, f"{here(page)} does not list this file of its folder; say in its table what is inside")


def test_architecture_names_every_folder() -> None:
    """The architecture page and the package's docstring name each folder of the package, and none besides."""
    folders = {
        file.parent.name for file in MODULES if file.name == "__init__.py" and file.parent.parent.name == "pipeline"
    }
    table = set(re.findall(r"`pipeline/(\w+)`", (ROOT / "pipeline/README.md").read_text()))
    docstring = set(re.findall(r"^- ``(\w+)``", ast.get_docstring(tree_of(ROOT / "pipeline/__init__.py")) or "", re.M))
    for place, names in (("pipeline/README.md", table), ("the docstring of pipeline/__init__.py", docstring)):
        none_of(folders - names, f"{place} does not name this folder")
        none_of(names - folders, f"{place} names a folder that does not exist")


PACKAGES = sorted((ROOT / "pipeline").rglob("__init__.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=here)
def test_every_folder_says_what_it_is_for(package: Path) -> None:
    """Each folder with code is a package whose docstring says in a sentence what belongs there."""
    said = (ast.get_docstring(tree_of(package)) or "").split("\n")[0]
    is_sentence = said.endswith((".", ":")) and len(said.split()) >= 6
    holds(is_sentence, f"{here(package)} does not begin with a sentence that says what belongs there: {said!r}")


def test_every_folder_with_code_is_a_package() -> None:
    """No folder escapes that rule."""
    bare = {here(file.parent) for file in MODULES} - {here(package.parent) for package in PACKAGES}
    none_of(bare, "A folder with code lacks an __init__.py that says what belongs there")


# Three questions

PROTOCOL = ROOT / "pipeline/deliver/protocol.py"
ALERT_STATE = ROOT / "pipeline/alerts/judge/state.py"
QUESTIONS = {
    "Where could a metric be lost, or stand twice?": PROTOCOL,
    "What happens when ClickHouse hangs in the middle of an insert?": PROTOCOL,
    "Who decides that an alert fires?": ALERT_STATE,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_file_answers_it(question: str) -> None:
    """The question stands at the top of one file, and the architecture page names that file beside it."""
    file = QUESTIONS[question]
    asking = [here(one) for one in MODULES if question in " ".join((ast.get_docstring(tree_of(one)) or "").split())]
    holds(asking, f"The docstring of {here(file)} no longer holds the question that it answers: {question}")
    none_of(set(asking) - {here(file)}, f"{here(file)} answers the question {question!r}, and another file asks it too")
    row = f"| {question} | `{here(file)}` |"
    holds(row in (ROOT / "pipeline/README.md").read_text(), f"pipeline/README.md lacks the row: {row}")


def answer_to(question: str) -> str:
    """The paragraphs below the question, up to the next question."""
    text = " ".join((ast.get_docstring(tree_of(QUESTIONS[question])) or "").split())
    return text.partition(question)[2].partition("?")[0]


REMOVES_ITEMS = re.compile(r"redis\.call\('(?:LTRIM|RPOP|LPOP|LREM)'|redis\.call\('UNLINK', key,")
BOOKKEEPING = {"drop_acked"}
"""Its list holds records of chunks, not items."""


def test_whatever_removes_items_is_named_where_losing_is_explained() -> None:
    """Each script that takes items out of Redis is named in the answer, and no Python code takes any out itself."""
    answer = answer_to("Where could a metric be lost, or stand twice?")
    scripts = sorted((ROOT / "pipeline/buffer/lua").glob("*.lua"))
    removing = {file.stem for file in scripts if REMOVES_ITEMS.search(file.read_text())} - BOOKKEEPING
    assert removing
    unnamed = {name for name in removing if f"``{name}``" not in answer}
    none_of(
        unnamed, f"Takes items out of Redis, and {here(PROTOCOL)} does not name it where it explains what could be lost"
    )
    commands = {"ltrim", "lpop", "rpop", "lrem", "brpop", "blpop", "lmove", "rpoplpush"}
    taking = {
        (here(file), node.func.attr)
        for file in MODULES
        for node in nodes_of(file)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in commands
    }
    # Lists that hold no items of the buffer: the newest alerts and outboxes, and requests to a running service.
    known = {
        "pipeline/operate/requests.py",
        "pipeline/jobs/stats_of_tests.py",
        "pipeline/jobs/failures.py",
        "pipeline/alerts/notify/notify.py",
        "pipeline/alerts/journal/table.py",
        "pipeline/alerts/journal/journal.py",
        "pipeline/client/importers/junit.py",
    }
    others = {one for one in taking if one[0] not in known}
    none_of(
        others, "Python code takes items out of a list of Redis; items of the buffer leave it through scripts alone"
    )


def test_the_answer_on_losing_names_what_exists() -> None:
    """Every name in the two answers of the protocol is a script, a phase, a table, a setting or a module."""
    known = {file.stem for file in (ROOT / "pipeline/buffer/lua").glob("*.lua")}
    known |= {str(phase) for phase in Phase} | {path for path, _, _ in config.setting_paths()}
    known |= {"buffer/lua", "kill -9", "metrics", "dead_letters", "lost"} | {file.stem for file in MODULES}
    for question, file in QUESTIONS.items():
        if file == PROTOCOL:
            unknown = {name for name in re.findall(r"``([^`]+)``", answer_to(question)) if name not in known}
            none_of(unknown, f"{here(file)} names what does not exist, in its answer to {question!r}")


def test_only_one_file_lets_an_alert_fire() -> None:
    """``Alert(FIRING, …)`` is made in ``state.py`` alone; everything else only looks at the state."""
    makers, firing = set(), ("State.FIRING", "FIRING")
    for file in MODULES:
        for node in nodes_of(file):
            if not isinstance(node, ast.Call) or last_name(node.func) not in ("Alert", "replace"):
                continue
            values = [*node.args[:1], *(one.value for one in node.keywords if one.arg == "state")]
            if any(ast.unparse(value) in firing for value in values):
                makers.add(here(file))
    holds(
        here(ALERT_STATE) in makers, f"{here(ALERT_STATE)} no longer makes an alert that fires; this test looks for it"
    )
    none_of(makers - {here(ALERT_STATE)}, f"Makes an alert that fires; only {here(ALERT_STATE)} decides that")


# One of each

ONE_PLACE = {
    r"fromisoformat|strptime": {"pipeline/base/clock.py"},
    r"difflib|get_close_matches": {"pipeline/base/nearest.py"},
    r"""replace\("'",""": {"pipeline/base/sql_text.py"},
    r"\(ms\|d\|h\|m\|s\)": {"pipeline/base/durations.py"},
    # The sender of reports carries its own script; the benchmark fills a Redis for a measurement.
    r"redis\.call\(": {"pipeline/bench/collect.py", "pipeline/client/report_sender.py"},
}
"""What has one place in the package: reading ISO-8601, nearest names, quoting SQL, reading durations; Lua has files."""


@pytest.mark.parametrize("pattern", ONE_PLACE)
def test_there_is_one_of_each(pattern: str) -> None:
    """What is written once is written nowhere again."""
    found = {here(file) for file in MODULES if re.search(pattern, file.read_text(encoding="utf-8"))}
    places = ONE_PLACE[pattern]
    none_of(found - places, f"Holds {pattern}, which has its place in {', '.join(sorted(places))}; call that")
    none_of(places - found, f"No longer holds {pattern}; bring ONE_PLACE in this test up to date")


def test_no_function_of_lua_is_written_twice() -> None:
    """A function that two scripts need stands in a file that both name."""
    places: dict[str, list[str]] = {}
    for file in sorted((ROOT / "pipeline").rglob("*.lua")):
        holds(file.read_text().startswith("-- "), f"{here(file)} does not begin with a comment that says what it does")
        for name in re.findall(r"^local function (\w+)", file.read_text(), re.MULTILINE):
            places.setdefault(f"{file.parent.parent.name}.{name}", []).append(here(file))
    twice = {(name, ", ".join(files)) for name, files in places.items() if len(files) > 1}
    none_of(twice, "Two scripts define this function; move it into a file that both name under 'needs:'")


# Walls


def test_nothing_reaches_through_a_buffer() -> None:
    """The connection of a ``Buffer`` is its own: outside ``pipeline/buffer`` its methods are called."""
    reaching = {
        (here(file), ast.unparse(node))
        for file in MODULES
        if file.parent.name != "buffer"
        for node in nodes_of(file)
        if isinstance(node, ast.Attribute)
        and node.attr in ("client", "_client")
        and re.search(r"buffer(s\[\w+\])?$", ast.unparse(node.value))
    }
    none_of(reaching, "Reaches through a Buffer to its connection; give the Buffer a method for it")


# Errors

RAISES = re.compile(r"\bRaises\b(.*?)(?:\.\s|\.$|$)", re.DOTALL)


@cache
def error_classes() -> dict[str, set[str]]:
    """Every class of the package and the builtins that is an error, with the names of what it derives from."""
    found = {
        name: {base.__name__ for base in kind.__mro__[1:]}
        for name, kind in vars(builtins).items()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    bases: dict[str, set[str]] = {}
    for file in MODULES:
        for node in nodes_of(file):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, set()).update(map(last_name, node.bases))
    for _ in range(6):
        for name, own in bases.items():
            if own & set(found):
                found[name] = own | set().union(*(found.get(base, set()) for base in own))
    return found


def announced(file: Path) -> Iterator[tuple[str, str]]:
    """(function, name of an error) for each error that a docstring of the file says is raised."""
    for node in nodes_of(file):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for sentence in RAISES.findall(ast.get_docstring(node) or ""):
                for name in re.findall(r"``([A-Z]\w+)``", sentence):
                    yield getattr(node, "name", "module"), name


def test_every_error_that_is_announced_is_tried() -> None:
    """What a docstring says is raised is an error, some code raises it or a kind of it, and a test expects it."""
    known = error_classes()
    raised: set[str] = set()
    expected: set[str] = set()
    for file in MODULES:
        for node in nodes_of(file):
            if isinstance(node, ast.Raise) and node.exc is not None:
                raised.add(last_name(node.exc.func if isinstance(node.exc, ast.Call) else node.exc))
            if isinstance(node, ast.Call):
                raised.add(last_name(node.func))
    for file in TESTS:
        for node in nodes_of(file):
            is_raises = isinstance(node, ast.Call) and last_name(node.func) == "raises"
            caught = node.args[:1] if is_raises else [node.type] if isinstance(node, ast.ExceptHandler) else []
            expected |= {last_name(name) for one in caught if one is not None for name in ast.walk(one)}
    wrong = []
    for file in MODULES:
        for function, name in announced(file):
            kinds = {name} | {other for other, above in known.items() if name in above}
            if name not in known:
                wrong.append(f"{here(file)}:{function}: {name} is no error")
            elif file.name != "failpoints.py" and not kinds & raised and not hasattr(builtins, name):
                wrong.append(f"{here(file)}:{function}: nothing raises {name}")
            elif not kinds & expected:
                wrong.append(f"{here(file)}:{function}: no test expects {name}")
    none_of(wrong, "A docstring says that an error is raised, and that is not so, or no test shows it")

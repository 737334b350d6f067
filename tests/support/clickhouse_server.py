"""A ClickHouse server for tests: the embedded engine in a process of its own, with a configuration of the test's.

``running`` answers ClickHouse's HTTP interface, so that the product meets it as a server, under the rights, the
profile and the clusters of that configuration. The process ends with the test, also when the engine hangs.

What the engine cannot do is left out of statements on their way to it: ``ON CLUSTER`` (there is no worker for
distributed DDL in it) and ``Replicated…`` engines (there is no Keeper).
"""

import argparse
import ctypes
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pipeline.base.config import Settings
from pipeline.store.migrate import Dialect, migrations

SHIPPED_USERS = Path(__file__).parents[2] / "config/clickhouse/users.d/pipeline.xml"
SHARDS = 2
START_WITHIN_S = 120.0

_HARNESS_GRANTS = ("GRANT READ ON FILE", "GRANT SHOW DATABASES ON default.*")
"""The engine takes the data of an insert from a file, a server from the request; it says USE for each request."""

_CHEAP = {"max_threads": "1"} | dict.fromkeys(
    ("compile_expressions", "compile_aggregate_expressions", "compile_sort_description"), "0"
)
"""Compiling a query costs more than it saves on a few thousand rows."""

_DISTRIBUTED = re.compile(
    r"TABLE (?:IF NOT EXISTS )?\w+\.(?P<table>\w+) .*Distributed\('[^']+', '[^']+', '\w+',(?P<key>.*)\)\Z", re.DOTALL
)
_ON_CLUSTER = re.compile(rb"ON CLUSTER '[^']*'")
_REPLICATED = re.compile(rb"Replicated(\w*MergeTree)\('[^']*', '[^']*'(?:, )?")


def users_xml(role: str, *, others: str = "", filters: Mapping[str, str] | None = None) -> str:
    """A configuration whose only user has what the shipped file gives to ``role``: its grants and its profile.

    The engine always logs in as "default". ``filters``: by table, which of its rows the user sees.
    """
    shipped = ElementTree.parse(SHIPPED_USERS).getroot()
    user = shipped.find(f"users/{role}")
    profiles = shipped.find("profiles")
    assert user is not None
    assert profiles is not None
    profile, grants = user.find("profile"), user.find("grants")
    assert profile is not None
    assert grants is not None
    for text in _HARNESS_GRANTS:
        ElementTree.SubElement(grants, "query").text = text
    ElementTree.SubElement(profiles, "default")
    for one in profiles:
        for name, value in _CHEAP.items():
            ElementTree.SubElement(one, name).text = value
    rows = "".join(
        f"<{table}><filter>{condition.replace('<', '&lt;')}</filter></{table}>"
        for table, condition in (filters or {}).items()
    )
    return f"""<clickhouse>
  <user_directories><users_xml><path>SELF</path></users_xml></user_directories>
  <users><default>
    <password/><networks><ip>127.0.0.1</ip></networks><quota>default</quota>
    {ElementTree.tostring(profile, "unicode")}{ElementTree.tostring(grants, "unicode")}
    {f"<databases><pipeline>{rows}</pipeline></databases>" if rows else ""}
  </default></users>
  {ElementTree.tostring(profiles, "unicode")}
  <quotas><default/></quotas>
  {others}
</clickhouse>"""


def sharding_keys(settings: Settings) -> dict[str, str]:
    """By table of ``settings.clickhouse.cluster`` the expression by which its rows are placed on shards."""
    made = [one for file in migrations() for one in Dialect(settings).statements(file.text)]
    found = (_DISTRIBUTED.search(statement) for statement in made)
    return {one["table"]: " ".join(one["key"].split()) for one in found if one}


def clusters_xml(name: str) -> str:
    """A cluster of two shards, both this very engine: only its own port on its own addresses counts as local."""
    shard = "<shard><replica><host>{}</host><port>9000</port></replica></shard>"
    both = "".join(shard.format(host) for host in ("127.0.0.1", "localhost"))
    return (
        f"<tcp_port>9000</tcp_port><macros><shard>1</shard><replica>1</replica></macros>"
        f"<remote_servers><{name}>{both}</{name}></remote_servers>"
    )


def shard_filters(keys: Mapping[str, str]) -> dict[str, str]:
    """By local table the rows that a shard sees: those that its Distributed table places there.

    One engine holds the rows of both shards. ``shardNum()`` is the shard for which a query runs, so each of them
    sees its own rows alone, as if they lay on two machines.
    """
    return {f"{table}_local": f"({key}) % {SHARDS} + 1 = shardNum()" for table, key in keys.items()}


@contextmanager
def running(directory: Path, configuration: str) -> Iterator[str]:
    """Yields the URL of a server with its data in ``directory``."""
    directory.mkdir(exist_ok=True)
    file = directory / "server.xml"
    file.write_text(configuration)
    command = [sys.executable, __file__, "--path", str(directory / "engine"), "--config", str(file)]
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    late = threading.Timer(START_WITHIN_S, process.kill)
    late.start()
    assert process.stdout
    try:
        line = process.stdout.readline()
        late.cancel()
        assert line, f"the server did not start: {(directory / 'server.log').read_text()[-3000:]}"
        yield json.loads(line)["url"]
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def without_what_it_lacks(statement: bytes) -> bytes:
    """``statement`` as the engine can run it, if it makes or changes something."""
    if not statement.lstrip()[:6].upper().startswith((b"CREATE", b"ALTER", b"DROP")):
        return statement
    return _REPLICATED.sub(rb"\1(", _ON_CLUSTER.sub(b"", statement))


def _serve(path: Path, configuration: Path) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it dies with the test's process
    from pipeline.embedded import engine_config
    from pipeline.embedded.handles import Handle
    from pipeline.embedded.http_interface import ClickHouseHttp

    def write(path: Path, _databases: Iterable[str]) -> None:
        file = engine_config.config_file(path)
        file.write_text(configuration.read_text().replace("SELF", str(file)))

    def run(handle: Handle, statement: bytes, *others: Any, **more: Any) -> Any:
        return as_it_is(handle, without_what_it_lacks(statement), *others, **more)

    as_it_is = Handle.run
    Handle.run = run  # type: ignore[method-assign]
    engine_config.write = write
    engine_config.take_role = lambda *_: None  # rights are what the configuration says
    with ClickHouseHttp(path, writable=True) as server:
        print(json.dumps({"url": server.url}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    given = parser.parse_args()
    _serve(given.path, given.config)

"""Who holds the embedded engine, and what other processes are told."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from pipeline.base.config import Settings
from pipeline.base.errors import EngineBusy, EngineRights, StoreRefused
from pipeline.embedded import engine, engine_config
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.store.client import Store

# Holds without opening: fast, and what is tested here is the holding.
HOLDER = """
import sys, pathlib
from pipeline.embedded import engine
hold = engine.hold(pathlib.Path(sys.argv[1]), sys.argv[2])
if len(sys.argv) > 3:
    hold.announce("0.0.0.0", int(sys.argv[3]))
print("held", flush=True)
sys.stdin.read()
hold.release()
"""


@contextmanager
def another_process(path: Path, role: str, *port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds the engine at ``path`` until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(path), role, *map(str, port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    """The sentence names the process and its command."""
    with another_process(tmp_path / "ch", "writer") as first:
        with pytest.raises(EngineBusy, match=rf"process {first.pid} \(-c .*ch writer\)"):
            engine.hold(tmp_path / "ch", "writer")
        owner = engine.owner(tmp_path / "ch")
        assert owner is not None
        assert (owner.pid, owner.role, owner.http_port) == (first.pid, "writer", 0)


def test_what_a_killed_owner_left_is_not_believed(tmp_path: Path) -> None:
    """After kill -9 the files are still there, but no process holds the engine."""
    with another_process(tmp_path / "ch", "writer", 8123) as first:
        first.kill()
        first.wait()
        assert json.loads((tmp_path / "ch.json").read_text())["pid"] == first.pid
        assert engine.owner(tmp_path / "ch") is None
        engine.hold(tmp_path / "ch", "writer").release()
    assert not (tmp_path / "ch.json").exists()


def test_a_writer_waits_for_a_reader_to_finish(tmp_path: Path) -> None:
    """A reader holds the engine for one question; a process that comes then waits instead of failing."""
    with another_process(tmp_path / "ch", "reader") as reader:
        assert reader.stdin
        reader.stdin.close()
        hold = engine.hold(tmp_path / "ch", "writer")
    owner = engine.owner(tmp_path / "ch")
    assert owner is not None
    assert (owner.pid, owner.role) == (os.getpid(), "writer")
    hold.release()


def test_a_process_shares_its_own_hold(tmp_path: Path) -> None:
    """Two holds of one process are one; the engine is free when both are given up."""
    first = engine.hold(tmp_path / "ch", "reader")
    second = engine.hold(tmp_path / "ch", "writer")
    assert first is second
    assert second.role == "writer"
    first.release()
    assert engine.owner(tmp_path / "ch") is not None
    second.release()
    assert engine.owner(tmp_path / "ch") is None


def test_where_the_owner_serves(tmp_path: Path) -> None:
    """An owner that listens everywhere is reached on this machine."""
    with another_process(tmp_path / "ch", "writer", 8124):
        owner = engine.serving_owner(tmp_path / "ch")
        assert owner is not None
        assert owner.url == "http://127.0.0.1:8124"


def test_nobody_owns_what_does_not_exist(tmp_path: Path) -> None:
    """Asking does not create anything."""
    assert engine.owner(tmp_path / "no" / "where") is None
    assert not list(tmp_path.iterdir())


ASK = """
import json, sys
from pipeline.base.config import Settings
from pipeline.base.errors import StoreRefused
from pipeline.store.client import Store
with Store.open(Settings(**json.loads(sys.argv[1])), role="reader") as store:
    try:
        store.command("DROP TABLE t")
        code = 0
    except StoreRefused as refused:
        code = refused.code
    print(json.dumps([store.is_embedded, store.rows("SELECT count() FROM t"), code]))
"""


def ask(settings: Settings) -> list[object]:
    """What a reader in another process finds: is its store embedded, the rows of t, how DROP is answered."""
    values = {"data_dir": str(settings.data_dir), "clickhouse": settings.clickhouse.model_dump()}
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps(values)], capture_output=True, text=True, check=True)
    answer: list[object] = json.loads(done.stdout)
    return answer


def test_a_reader_asks_the_owner_that_serves(
    make_settings: Callable[..., Settings], store: Store, tmp_path: Path
) -> None:
    """While this process holds the engine and serves it, a reader elsewhere gets its answers over HTTP, read-only."""
    store.command("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    store.command("INSERT INTO t VALUES (1), (2)")
    with ClickHouseHttp(store):
        assert store.hold
        settings = make_settings(clickhouse={"dsn": f"chdb://{store.hold.path}", "database": store.database})
        assert ask(settings) == [False, [[2]], 164]


WRITE = """
import json, sys
from pipeline.base.config import Settings
from pipeline.store.client import Store
store = Store.open(Settings(**json.loads(sys.argv[1])))
store.command("CREATE DATABASE pipeline")
store.command("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
store.command("INSERT INTO t VALUES (7)")
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reader_opens_an_engine_that_nobody_holds(tmp_path: Path) -> None:
    """After the owner was killed a reader opens the engine itself, sees what was stored, and cannot write."""
    settings = Settings(data_dir=tmp_path)
    killed = subprocess.run([sys.executable, "-c", WRITE, json.dumps({"data_dir": str(tmp_path)})], check=False)
    assert killed.returncode == -9
    assert (tmp_path / "clickhouse.json").exists()
    assert ask(settings) == [True, [[1]], 164]


def test_a_process_opens_one_engine(make_settings: Callable[..., Settings], store: Store, tmp_path: Path) -> None:
    """A second directory is refused with the reason, and is not left locked."""
    with pytest.raises(EngineBusy, match="can open only one"):
        Store.open(make_settings(clickhouse={"dsn": f"chdb://{tmp_path / 'other'}"}))
    assert engine.owner(tmp_path / "other") is None


PEEK = "import sys, chdb; held = chdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


def test_another_program_may_hold_the_engine(tmp_path: Path) -> None:
    """A notebook does not know the lock; the engine's own refusal is told as such."""
    foreign = [sys.executable, "-c", PEEK, str(tmp_path / "clickhouse")]
    with subprocess.Popen(foreign, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"open\n"
        opening = [sys.executable, "-c", WRITE, json.dumps({"data_dir": str(tmp_path)})]
        done = subprocess.run(opening, capture_output=True, text=True, check=False)
        other.kill()
    assert "EngineBusy: the embedded ClickHouse is held by another program" in done.stderr


def test_a_reader_in_the_owners_process_cannot_write(make_settings: Callable[..., Settings], store: Store) -> None:
    """A second handle of the same process, opened as reader, is read-only and limited; the first one is not."""
    settings = make_settings(clickhouse={"database": store.database}, web={"query_max_result_rows": 10})
    with Store.open(settings, role="reader") as reader:
        with pytest.raises(StoreRefused) as refused:
            reader.command("CREATE TABLE t (n UInt8) ENGINE = Memory")
        assert refused.value.code == 164
        with pytest.raises(StoreRefused) as refused:
            reader.query("SELECT * FROM numbers(11)")
        assert refused.value.code == 396
        with pytest.raises(StoreRefused, match=r"code 497: .* the column system\.tables\.data_paths is not one"):
            reader.query("SELECT data_paths FROM system.tables")
    store.command("CREATE TABLE t (n UInt8) ENGINE = Memory")
    assert store.query("SELECT * FROM numbers(11)").num_rows == 11


def test_a_reader_of_a_server_cannot_write(make_settings: Callable[..., Settings], store: Store) -> None:
    """On a server a reader limits itself."""
    with ClickHouseHttp(store, writable=True) as server:
        settings = make_settings(clickhouse={"dsn": server.url, "database": store.database})
        with Store.open(settings, role="reader") as reader:
            assert reader.rows("SELECT count() FROM metrics") == [(0,)]
            with pytest.raises(StoreRefused) as refused:
                reader.command("DROP TABLE metrics")
            assert refused.value.code == 164


def test_the_serving_process_says_where(store: Store) -> None:
    """The address in the owner's file answers, and is gone once the serving ends."""
    assert store.hold
    with ClickHouseHttp(store):
        owner = engine.owner(store.hold.path)
        assert owner is not None
        assert urllib3.request("GET", f"{owner.url}/ping").data == b"Ok.\n"
    owner = engine.owner(store.hold.path)
    assert owner is not None
    assert owner.http_port == 0


def test_a_handle_without_the_analysts_role_is_not_used() -> None:
    """Whatever the engine answers but the expected roles stops the handle, with the reason."""
    with pytest.raises(EngineRights, match="without the pipeline's configuration"):
        engine_config.take_role(lambda _: None, lambda _: "default\n", "pipeline")
    with pytest.raises(EngineRights, match="another database"):
        engine_config.take_role(lambda _: None, lambda sql: "0" if "grants" in sql else "analyst\nowner", "pipeline")
    with pytest.raises(EngineRights, match="does not hold analysts back"):
        engine_config.take_role(lambda _: None, lambda sql: "1" if "grants" in sql else "analyst\nowner", "pipeline")

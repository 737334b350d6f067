"""The store: everything that is said to ClickHouse goes through here, and through clickhouse-connect.

The same code serves a server, a cluster and the engine inside this process. An insert is one
Arrow body and lands as one block per partition, so that it appears whole or not at all. When
ClickHouse is away or asks to come back later, ``StoreOutage`` is raised and the outcome of what
was asked is in doubt; when it refuses, ``StoreRefused`` carries its error number. Nothing is
retried here: the caller knows what a second attempt would do.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.exceptions import Error as DriverError

from pipeline.base.config import Settings, WebSettings, demand_server_for_cluster
from pipeline.base.errors import ConfigError, EngineBusy, StoreOutage
from pipeline.base.sql_text import literal
from pipeline.embedded import engine, engine_config, local_secret, query_guard
from pipeline.embedded.handles import Answer, EngineError
from pipeline.embedded.statement_settings import memory_share_bytes
from pipeline.store import http_connection
from pipeline.store.arrow import one_block, whole_stream
from pipeline.store.partitions import MAX_PARTITIONS
from pipeline.store.refusals import as_asked, proved_rows, rows_at_fault, translated, unreadable_answers

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Store", "analyst_settings", "engine_path", "rows_at_fault"]

_ROWS_UNLIMITED = 1 << 30


def analyst_settings(web: WebSettings) -> dict[str, int | str]:
    """Limits of a handle for people, in the order to SET them; ``readonly`` comes last.

    2, not 1, so that a statement can carry settings of its own: ``statement_settings`` says which, and how far.
    """
    share = memory_share_bytes(web)
    return {
        "final": 1,
        "max_execution_time": math.ceil(web.query_max_s),  # 0 would be no limit
        "max_memory_usage": share,
        "max_result_bytes": share,
        "max_result_rows": web.query_max_result_rows,
        "result_overflow_mode": "throw",
        "readonly": 2,
    }


class Store:
    """One handle on ClickHouse. Thread-safe: calls are serialised, so a thread that works long takes ``clone()``.

    Rows come and go as Arrow. Of what ``query`` returns, LowCardinality and String columns are plain
    strings, DateTime64 is timestamp[ms, UTC], DateTime is uint32 (epoch seconds), Map is map, Bool is bool.
    A writer that reads many rows to number their strings ends the query with ``AS_DICTIONARIES``: from query
    to integer codes 0.1 instead of 0.5 µs a row (11 columns). Readers' settings are fixed.
    Tables whose rows replace each other are read as if ``FINAL`` were written everywhere.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        database: str,
        *,
        cluster: str = "",
        role: engine.Role = "writer",
        hold: engine.Hold | None = None,
        limits: WebSettings | None = None,
        gate: Callable[[], None] | None = None,
    ) -> None:
        """``limits``: an analyst's handle on the engine of this process, held to them and to ``query_guard``.

        ``gate``: see ``later``.
        """
        self.database = database
        self.cluster = cluster
        self.role: engine.Role = role
        self.hold = hold
        self._connect = connect
        self._limits = limits
        self._gate = gate
        self._lock = threading.Lock()
        self._connected: Client | None = None
        if gate is None:
            with translated(role):
                self._connect_now()
        self._analyst = _Analyst(self._client, database) if limits else None

    @classmethod
    def open(cls, settings: Settings, *, role: Literal["writer", "reader"] = "writer") -> Store:
        """Connect to ``settings.clickhouse.dsn``.

        Raises ``StoreOutage`` when ClickHouse does not answer, ``EngineBusy`` when another process
        holds the embedded engine. A reader goes to that process over HTTP instead, if it serves;
        if no process holds the engine, it opens it and can only read.
        """
        demand_server_for_cluster(settings.clickhouse)
        path = engine_path(settings)
        database, cluster = settings.clickhouse.database, settings.clickhouse.cluster
        if path is None:
            dsn, profile = settings.clickhouse.dsn, _server_profile(settings, role)
            return cls(lambda: _connect_http(settings, dsn, profile), database, cluster=cluster, role=role)
        if role == "reader" and not path.exists():
            raise StoreOutage(f"there is no embedded ClickHouse in {path} yet: 'pipeline run' makes it")
        try:
            hold = engine.hold(path, role, [database])
        except EngineBusy:
            first = engine.serving_owner(path) if role == "reader" else None
            if first is None:
                raise
            # The owner fixes what its readers may do; it takes no settings from them.
            secret = local_secret.read(path)
            return cls(lambda: _connect_http(settings, first.url, {}, secret), database, role=role)
        try:
            return cls(
                lambda: _connect_engine(settings, path, role),
                database,
                cluster=cluster,
                role=role,
                hold=hold,
                limits=settings.web if role == "reader" else None,
            )
        except BaseException:
            hold.release()
            raise

    @classmethod
    def later(cls, settings: Settings, gate: Callable[[], None]) -> Store:
        """A writer's handle on a server that need not answer yet: it connects when it is first used.

        ``gate`` is called before everything that is asked and raises ``StoreOutage`` while ClickHouse may not be
        used; clones share it.
        """
        dsn, profile = settings.clickhouse.dsn, _server_profile(settings, "writer")
        database, cluster = settings.clickhouse.database, settings.clickhouse.cluster
        return cls(lambda: _connect_http(settings, dsn, profile), database, cluster=cluster, gate=gate)

    @property
    def _client(self) -> Client:
        """The connection, made at first use."""
        return self._connected or self._connect_now()

    def _connect_now(self) -> Client:
        client = self._connect()
        client.database = self.database
        self._connected = client
        return client

    @property
    def is_embedded(self) -> bool:
        """Whether the engine runs inside this process."""
        return self.hold is not None

    def insert(self, table: str, rows: pa.Table, *, token: str = "") -> int:
        """Insert ``rows`` (any number; columns by name) into ``table`` as one block per partition.

        Returns how many rows ClickHouse says that it wrote: as many as were sent, or more where materialized views
        take part. Anything else is no proof, whatever the HTTP status: ``StoreOutage`` then, too.

        With a ``token``, ClickHouse drops what came in under the same token a moment ago; it is a second
        line of defence against a sender that wakes up late, not a proof that the rows are there.

        Raises ``StoreOutage`` if the outcome is in doubt, ``StoreRefused`` if nothing was written and
        the same rows would be refused again. Dictionary-encoded columns are fastest.
        """
        if not rows.num_rows:
            return 0
        body = one_block(rows)
        query_settings = self.insert_settings(token)
        with self._speaking(), unreadable_answers():
            # The driver repeats a request whose connection broke if it can send the body again: this one it cannot.
            sent = body if self.is_embedded else _read_once(body)
            summary = self._client.raw_insert(
                table, rows.column_names, sent, fmt="ArrowStream", settings=query_settings
            )
            return proved_rows(table, rows.num_rows, summary.summary)

    def insert_settings(self, token: str = "") -> dict[str, Any]:
        """Every setting that goes with an insert."""
        with self._speaking():  # what the server knows is asked when the handle connects
            return _INSERT_SETTINGS | self._deduplication(token)

    def _deduplication(self, token: str) -> dict[str, Any]:
        """Off unless asked for: without a token two chunks with equal rows would become one.

        ``deduplicate_insert`` overrules ``insert_deduplicate`` where it exists (since 26.x), and is on by default.
        """
        known = "deduplicate_insert" in self._client.server_settings
        query_settings: dict[str, Any] = {"deduplicate_insert": "enable" if token else "disable"} if known else {}
        return query_settings | {"insert_deduplicate": int(bool(token)), "insert_deduplication_token": token}

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The result of ``sql``, whole; ClickHouse fills ``{name:Type}`` in it from ``parameters``."""
        with as_asked("ArrowStream"), self._speaking(), unreadable_answers():
            body = self._client.raw_query(self._allowed(sql), dict(parameters or {}), fmt="ArrowStream")
            return whole_stream(body)

    def raw(self, sql: str, parameters: Mapping[str, Any] | None, output_format: str, *, tag: str = "") -> bytes:
        """The result of ``sql`` in one of ClickHouse's formats, as it comes; for people who ask for CSV and its kin.

        What carries a ``tag`` (letters, digits, - and blanks) can be ended by ``end``.
        """
        with as_asked(output_format, tag), self._speaking():
            body: bytes = self._client.raw_query(
                self._allowed(sql) + _tagged(tag), dict(parameters or {}), fmt=output_format
            )
        return body

    def end(self, tag: str) -> None:
        """End what other handles run under this tag, if it has begun; a writer's handle does it."""
        find = literal(_tagged(tag).strip())
        self.command(f"KILL QUERY WHERE position(query, {find}) > 0 AND query NOT LIKE 'KILL%' ASYNC")

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """One call at a time, its errors in our words.

        The engine inside this process, when it fails in the middle of a result, puts the rest of that result in front
        of the next answer (tried): nothing but a whole answer to a question of our own shows that it is through.
        """
        if self._gate is not None:
            self._gate()
        with self._lock, translated(self.role):
            try:
                yield
            except DriverError as error:
                if self.is_embedded:
                    for _ in range(3):
                        if self._client.raw_query("SELECT 1", fmt="TabSeparated") == b"1\n":
                            break
                if self._analyst is not None:
                    asked = query_guard.as_asked(self._analyst, EngineError(str(error), error.code or 0))
                    raise DatabaseError(str(asked), code=asked.code or None) from error
                raise

    def _allowed(self, sql: str) -> str:
        """``sql``, or what of it an analyst's handle on the engine of this process may run."""
        if self._analyst is None or self._limits is None:
            return sql
        try:
            text = query_guard.checked(self._analyst, sql.encode(errors="surrogateescape"), {}, self._limits).text
        except EngineError as error:
            raise DatabaseError(str(error), code=error.code) from None
        return text.decode(errors="surrogateescape")

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The same as ``query``, as Python rows; for small results."""
        table = self.query(sql, parameters)
        return list(zip(*(column.to_pylist(maps_as_pydicts="strict") for column in table.columns), strict=True))

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement whose result does not matter (DDL, ALTER, SYSTEM)."""
        with self._speaking():
            self._client.command(self._allowed(sql), dict(parameters or {}), use_database=not _creates_database(sql))

    def is_granted(self, right: str) -> bool:
        """Whether the user has ``right``, such as "INSERT ON pipeline.metrics"; old versions raise ``StoreRefused``."""
        with self._speaking():  # this statement takes no FORMAT
            return str(self._client.command(f"CHECK GRANT {right}")).strip() == "1"

    def every_replica(self, table: str) -> str:
        """What to read FROM to see every row of ``table`` that was ever acknowledged, some of them several times.

        A replica may lag behind the one that took an insert. On a cluster this asks all replicas at once, so the one
        that took it is among them; while one does not answer, reading raises ``StoreOutage``. Needs the grant REMOTE.
        """
        if not self.cluster:
            return table
        return f"clusterAllReplicas({literal(self.cluster)}, {literal(self.database)}, {literal(table + '_local')})"

    def clone(self) -> Store:
        """Another handle on the same ClickHouse, for another thread. Raises ``StoreOutage`` as ``open`` does."""
        hold = self.hold.share() if self.hold else None
        try:
            return type(self)(
                self._connect,
                self.database,
                cluster=self.cluster,
                role=self.role,
                hold=hold,
                limits=self._limits,
                gate=self._gate,
            )
        except BaseException:
            if hold:
                hold.release()
            raise

    def close(self) -> None:
        """Give the handle back; safe to repeat. The engine of this process ends with its last handle."""
        with self._lock:
            if self._connected is not None:
                self._connected.close_connections()
                self._connected.close()
            hold, self.hold = self.hold, None
        if hold:
            hold.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Analyst:
    """What ``query_guard`` asks the engine through: the client of an analyst's handle."""

    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        self.home = self.database = database

    def run(
        self, statement: bytes, format_name: str = "TabSeparated", parameters: Mapping[str, str] | None = None
    ) -> Answer:
        try:
            text = statement.decode(errors="surrogateescape")
            body: bytes = self._client.raw_query(text, dict(parameters or {}), fmt=format_name)
        except DriverError as error:
            raise EngineError(str(error), error.code or 0) from None
        return Answer(body, 0, 0, 0, 0, 0.0)


def engine_path(settings: Settings) -> Path | None:
    """Where the embedded engine keeps its files; None when the DSN names a server."""
    dsn = settings.clickhouse.dsn
    if dsn == "embedded":
        return (settings.data_dir / "clickhouse").resolve()
    if dsn.startswith("chdb://"):
        path = dsn.removeprefix("chdb://")
        if not path.startswith("/"):
            raise ConfigError(f"setting 'clickhouse.dsn' has the value {dsn!r}: chdb:// needs an absolute path")
        return Path(path).resolve()
    return None


# Every setting that decides what an insert does is said, never left to a default: defaults differ
# between versions (async_insert is on since 26.2) and between users of one server.
_INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    # One insert, one block: nothing below this many rows or bytes is cut, everything is gathered first.
    "max_insert_block_size": _ROWS_UNLIMITED,
    "min_insert_block_size_rows": _ROWS_UNLIMITED,
    "min_insert_block_size_bytes": 1 << 40,
    "max_insert_threads": 1,
    "input_format_parallel_parsing": 0,
    "max_partitions_per_insert_block": MAX_PARTITIONS,
    "throw_on_max_partitions_per_insert_block": 1,
    # No insert of the pipeline holds a key twice; looking for one costs as much as the insert.
    "optimize_on_insert": 0,
    # A null is our bug and must not become a zero.
    "input_format_null_as_default": 0,
    "insert_null_as_default": 0,
    # On a cluster: answer only when the shard has the rows.
    "distributed_foreground_insert": 1,
}

_READ_SETTINGS: dict[str, Any] = {
    "session_timezone": "UTC",
    "final": 1,
    "do_not_merge_across_partitions_select_final": 0,
    "output_format_arrow_compression_method": "none",
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    # A replica that does not answer may be the only one that has a row.
    "skip_unavailable_shards": 0,
}


def _connect_engine(settings: Settings, path: Path, role: engine.Role) -> Client:
    try:
        client = clickhouse_connect.get_client(
            interface="chdb", path=str(path), chdb_options=engine_config.options(path)
        )
    except ImportError as error:
        raise ConfigError(
            "setting 'clickhouse.dsn' asks for the embedded engine, which is not installed: "
            "pip install 'metrics-pipeline[embedded]'"
        ) from error
    profile = _READ_SETTINGS | (analyst_settings(settings.web) if role == "reader" else {})
    try:
        engine_config.take_role(
            client.command,
            lambda sql: client.raw_query(sql, fmt="TabSeparatedRaw").decode(),
            settings.clickhouse.database if role == "reader" else "",
        )
        for name, value in profile.items():
            client.set_client_setting(name, value)
    except BaseException:
        client.close()
        raise
    return client


def _server_profile(settings: Settings, role: engine.Role) -> dict[str, Any]:
    """What goes with every request to a server. ``readonly=2`` forbids writing but not these settings themselves."""
    if role == "writer":
        # The server gives up when we do: what we take for lost should not land much later.
        return _READ_SETTINGS | {"max_execution_time": math.ceil(settings.clickhouse.request_timeout_s)}
    return _READ_SETTINGS | analyst_settings(settings.web) | {"readonly": 2}


def _connect_http(settings: Settings, dsn: str, profile: Mapping[str, Any], token: str = "") -> Client:
    return http_connection.connect(settings.clickhouse, dsn, profile, token)


def _tagged(tag: str) -> str:
    """What is written behind a statement; on a line of its own, since a comment may stand on the last."""
    return f"\n/* {tag} */" if tag else ""


def _read_once(body: pa.Buffer) -> Generator[Any, None, None]:
    yield body


def _creates_database(sql: str) -> bool:
    """Such a statement must not name the database as the one to work in: it may not exist."""
    return re.match(r"\s*(CREATE|DROP)\s+DATABASE\b", sql, re.IGNORECASE) is not None

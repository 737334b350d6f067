"""Figures for the page: the named queries of ``sql/page.sql``, and what people ask in SQL themselves."""

from __future__ import annotations

import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa

from pipeline.base import clock, resources
from pipeline.base.errors import PipelineError
from pipeline.jobs.coarser import DAY_S, HOUR_S
from pipeline.store import results
from pipeline.store.client import Store
from pipeline.web.flakiest import flakiest
from pipeline.web.spans import MergedSpans, written_out

FILE = "sql/page.sql"
ASKED_BEFORE = {"since": "newest_executions", "hours": "hours_of_attempts"}
"""Parameters that another query of the file gives, out of windows, so that few raw rows are read."""
ASKED_BEFORE_S = 60.0
"""How long such an answer is remembered: a page that shows a span, or shows it again, needs it only roughly."""
ADDED = {"flakiest": ("flakiest_before", flakiest)}
"""Figures to whose answer that of another one is added, and how."""
_NOT_COMPILED = "\nSETTINGS compile_expressions = 0, compile_aggregate_expressions = 0, compile_sort_description = 0"
"""ClickHouse compiles a statement that comes for the fourth time; that answer took up to half a second longer."""
_MOST_REMEMBERED = 256
HANDLES = 2
MAX_SHOWN_ROWS = 2_000
"""Of an answer to a question; downloads have all rows."""

_TEXT_PARAMETERS = ("environment", "browser", "suite", "test", "run", "other", "vital", "alert")
_WRAPPED = r"(?:Nullable\(|LowCardinality\()*"
_TIME = re.compile(_WRAPPED + r"DateTime(?:64)?\b(?:[^']*'(?P<zone>[^']+)')?")
_DAY = re.compile(_WRAPPED + r"Date(?:32)?\b")
_MAX_TEXT = 500
_MAX_SPAN_S = 400 * 86_400
_LAST_S = (1 << 32) - 1
"""ClickHouse's DateTime ends in 2106."""
_EXACT = 1 << 53
"""Integers beyond it are other ones once a browser has read them: they are sent as text."""
_POINTS = 180
_WINDOW_S = 300
_WHOLE_DAYS_FROM_S = 3 * DAY_S
_HOURS_FROM_S = 12 * HOUR_S
"""From here on a chart has a point an hour: a day's windows of all tests are more than is read in a moment."""

DOWNLOADS = {
    "CSVWithNames": ("text/csv", "csv"),
    "TSVWithNames": ("text/tab-separated-values", "tsv"),
    "JSONEachRow": ("application/x-ndjson", "ndjson"),
    "Parquet": ("application/vnd.apache.parquet", "parquet"),
}


class BadRequest(Exception):
    """A parameter is wrong; the text says which."""


class ReaderPool:
    """A few handles on the store, each for one question at a time."""

    def __init__(self, open_one: Callable[[], Store]) -> None:
        self._open = open_one
        self.merged = MergedSpans()
        self.asked_before = _AskedBefore()
        self._free: queue.LifoQueue[Store | None] = queue.LifoQueue()
        for _ in range(HANDLES):
            self._free.put(None)

    @contextmanager
    def take(self, patience_s: float = 10.0) -> Iterator[Store]:
        """A handle. Raises ``PipelineError`` when all stay busy, or ClickHouse is away."""
        try:
            store = self._free.get(timeout=patience_s)
        except queue.Empty:
            raise PipelineError("all handles are busy; ask again in a moment") from None
        with self._lent(store) as opened:
            yield opened

    @contextmanager
    def take_free(self) -> Iterator[Store | None]:
        """One more handle, where one is free now: who holds a handle must not wait for another."""
        try:
            store = self._free.get_nowait()
        except queue.Empty:
            yield None
            return
        with self._lent(store) as opened:
            yield opened

    @contextmanager
    def _lent(self, store: Store | None) -> Iterator[Store]:
        try:
            store = store or self._open()
            yield store
        finally:
            self._free.put(store)

    def close(self) -> None:
        """Close those that are not in use."""
        while True:
            try:
                store = self._free.get_nowait()
            except queue.Empty:
                return
            if store is not None:
                store.close()


class _AskedBefore:
    """Answers to ``ASKED_BEFORE``, remembered for a while: for the whole windows that a span touches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[Any, ...], tuple[float, Any]] = {}
        """When it was answered (monotonic), and the answer, the oldest first."""

    def of(self, handles: ReaderPool, store: Store, parameter: str, values: Mapping[str, Any]) -> Any:
        """What a parameter of a figure of these ``values`` is."""
        from_s, to_s = values["from"], values["to"]
        whole = {**values, "from": from_s // _WINDOW_S * _WINDOW_S, "to": -(-to_s // _WINDOW_S) * _WINDOW_S}
        key = (parameter, *sorted(_named(whole, resources.queries(FILE)[ASKED_BEFORE[parameter]].sql).items()))
        now_s = time.monotonic()
        with self._lock:
            answered_s, answer = self._known.get(key, (-math.inf, None))
        if now_s - answered_s > ASKED_BEFORE_S:
            answer = _answer(handles, store, ASKED_BEFORE[parameter], whole)[1].column(parameter)[0].as_py()
            with self._lock:
                self._known.pop(key, None)
                self._known[key] = now_s, answer
                while len(self._known) > _MOST_REMEMBERED:
                    del self._known[next(iter(self._known))]
        return min(max(answer, from_s), to_s) if parameter == "since" else answer


def parameters(given: Mapping[str, str], now_s: int) -> dict[str, Any]:
    """What fills the placeholders: the span in whole windows, the filters. Raises ``BadRequest``."""
    until_s = _whole("to", given.get("to"), now_s)
    from_s = _whole("from", given.get("from"), max(until_s - 3 * 3600, 0))
    if not 0 < until_s - from_s <= _MAX_SPAN_S:
        raise BadRequest(f"'from' has to lie before 'to', by at most {_MAX_SPAN_S // 86_400} days")
    texts = {name: given.get(name, "") for name in _TEXT_PARAMETERS}
    if long := [name for name, text in texts.items() if len(text) > _MAX_TEXT]:
        raise BadRequest(f"{long[0]!r} is too long")
    bucket_s = _bucket_s(until_s - from_s)
    if bucket_s >= HOUR_S:
        # Whole hours or days are read as such, so a long span begins with one.
        whole_s = DAY_S if until_s - from_s >= _WHOLE_DAYS_FROM_S else HOUR_S
        from_s = from_s // whole_s * whole_s
    return {"from": from_s, "to": until_s, "bucket": bucket_s, **texts}


def _bucket_s(span_s: int) -> int:
    """Seconds between two points of a chart: windows up to half a day, hours up to two weeks, then days."""
    if span_s <= _HOURS_FROM_S:
        return max(_WINDOW_S, math.ceil(span_s / _POINTS / _WINDOW_S) * _WINDOW_S)
    return max(1, math.ceil(span_s / _POINTS / HOUR_S)) * HOUR_S if span_s <= 14 * DAY_S else DAY_S


def figure(handles: ReaderPool, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one named query, with what it was asked and how long that took."""
    known = resources.queries(FILE)
    if name not in known:
        raise BadRequest(f"there is no figure {name[:80]!r}")
    with handles.take() as store:
        began = time.perf_counter()
        for parameter in ASKED_BEFORE:
            if "{" + parameter + ":" in known[name].sql:
                values = {**values, parameter: handles.asked_before.of(handles, store, parameter, values)}
        sql = known[name].sql
        if name in ADDED:
            part, added = ADDED[name]
            (used, table), (_, more) = _answers(handles, store, (name, part), values)
            table = added(table, more)
            sql += f"\n\n-- {part}\n{known[part].sql}"
        else:
            used, table = _answer(handles, store, name, values)
        took_ms = (time.perf_counter() - began) * 1000
    return {
        **as_json(table),
        "source": known[name].sentence,
        "sql": sql,
        "parameters": used,
        "took_ms": round(took_ms, 1),
    }


_Answer = tuple[dict[str, Any], pa.Table]
"""What a named query was asked, and its answer."""


def _answers(
    handles: ReaderPool, store: Store, names: tuple[str, str], values: Mapping[str, Any]
) -> tuple[_Answer, _Answer]:
    """The answers to two named queries, side by side where a second handle is free."""
    with handles.take_free() as other:
        if other is None:
            return _answer(handles, store, names[0], values), _answer(handles, store, names[1], values)
        with ThreadPoolExecutor(1, "page-figure") as beside:
            second = beside.submit(_answer, handles, other, names[1], values)
            return _answer(handles, store, names[0], values), second.result()


def _answer(handles: ReaderPool, store: Store, name: str, values: Mapping[str, Any]) -> _Answer:
    sql = resources.queries(FILE)[name].sql
    text = written_out(sql, values, handles.merged.of(store)).rstrip("; \n") + _NOT_COMPILED
    # Without a placeholder for one of them the client would look for % in the statement instead.
    return _named(values, sql), store.query(text, _named(values, text))


def _named(values: Mapping[str, Any], sql: str) -> dict[str, Any]:
    """Those that a statement has a placeholder for."""
    return {key: value for key, value in values.items() if "{" + key + ":" in sql}


def filled(sql: str, given: Mapping[str, Any]) -> dict[str, str]:
    """What fills the parameters of a question of a person's own. Raises ``UsageError``."""
    texts = {name: str(text) for name, text in given.items()}
    try:
        "".join((sql, *texts, *texts.values())).encode()
    except UnicodeEncodeError:
        raise BadRequest("the question holds half a character") from None
    return resources.Query("", sql).values(texts, time.time_ns() // 1_000_000)


def asked(handles: ReaderPool, sql: str, values: Mapping[str, str], tag: str = "") -> dict[str, Any]:
    """The answer to a question of a person's own, its first rows. Raises ``UsageError`` for several statements."""
    text = results.one_statement(sql)
    with handles.take() as store:
        began = time.perf_counter()
        body = store.raw(text, values, results.FORMAT, tag=tag)
        took_ms = (time.perf_counter() - began) * 1000
    shown = results.parse(body, most=MAX_SHOWN_ROWS)
    readers = [_reader(kind) for kind in shown.types]
    return {
        "columns": shown.names,
        "kinds": [kind for kind, _ in readers],
        "rows": [[read(value) for (_, read), value in zip(readers, row, strict=True)] for row in shown.rows],
        "row_count": results.count(body),
        "took_ms": round(took_ms, 1),
    }


def _reader(kind: str) -> tuple[str, Callable[[Any], Any]]:
    """What a type of ClickHouse's is to the page, and how its values are told."""
    if (found := _TIME.match(kind)) and (zone := _zone(found["zone"] or "UTC")):
        return "time", lambda text: text and clock.from_iso(text, zone)
    return "day" if _DAY.match(kind) else "number" if results.is_number(kind) else "text", _plain


def _zone(name: str) -> tzinfo | None:
    """The zone of this name; none for those that ClickHouse alone knows, such as ``Fixed/UTC+01:00:00``."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None


def download(handles: ReaderPool, sql: str, output: str, values: Mapping[str, str], tag: str = "") -> bytes:
    """The whole answer in one of ClickHouse's formats."""
    if output not in DOWNLOADS:
        raise BadRequest(f"'format' is one of {', '.join(DOWNLOADS)}")
    with handles.take() as store:
        return store.raw(results.one_statement(sql), values, output, tag=tag)


def schema(handles: ReaderPool, database: str) -> list[dict[str, Any]]:
    """Tables and views with their columns."""
    with handles.take() as store:
        rows = store.rows(
            "SELECT table, name, type, comment FROM system.columns WHERE database = {database:String} "
            "AND NOT startsWith(table, '.') AND table != 'schema_migrations' ORDER BY table, position",
            {"database": database},
        )
        about = dict(
            store.rows(
                "SELECT name, comment FROM system.tables WHERE database = {database:String}", {"database": database}
            )
        )
    tables: dict[str, list[dict[str, str]]] = {}
    for table, name, kind, comment in rows:
        tables.setdefault(table, []).append({"name": name, "type": kind, "comment": comment})
    return [{"name": name, "comment": about.get(name, ""), "columns": columns} for name, columns in tables.items()]


def as_json(table: pa.Table) -> dict[str, Any]:
    """Columns and rows as a browser reads them: times as epoch milliseconds, NaN and infinity as null."""
    columns = [column.to_pylist(maps_as_pydicts="lossy") for column in table.columns]
    kinds = [_kind(field.type) for field in table.schema]
    rows = [[_plain(value) for value in row] for row in zip(*columns, strict=True)]
    return {"columns": table.column_names, "kinds": kinds, "rows": rows}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    return "text"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int) and abs(value) > _EXACT:
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _whole(name: str, text: str | None, default: int) -> int:
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LAST_S):
        raise BadRequest(f"{name!r} is in whole epoch seconds")
    return int(text)

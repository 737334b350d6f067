"""Settings: ``config/pipeline.yaml``, each overridable by ``PIPELINE_<SECTION>__<NAME>``.

One small object per part, frozen once read. An unknown key, a wrong type or an
impossible value stops the start with one sentence that names the key, the value
and the nearest valid name. A secret may also stand in a file named by the same
variable with ``_FILE`` appended.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.base.errors import ConfigError

ENV_PREFIX = "PIPELINE_"
CONFIG_PATH_VARIABLE = "PIPELINE_CONFIG"

Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings: unknown keys are refused, values do not change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RedisDatabases(Section):
    """Database numbers as in the platform's schema; Redis Cluster knows only 0."""

    sessions: int = Field(0, ge=0, description="test sessions and authentication")
    coordination: int = Field(1, ge=0, description="test coordination and locking")
    results: int = Field(2, ge=0, description="test results, baselines")
    metrics: int = Field(3, ge=0, description="the buffer, windows, vitals, alerts")
    ai: int = Field(4, ge=0, description="AI model cache")
    notifications: int = Field(5, ge=0, description="channels")
    environment: int = Field(6, ge=0, description="environment state, retention, clean-up status")
    temporary: int = Field(7, ge=0, description="temporary test data")


class RedisPool(Section):
    """Connection pool sizes and timeouts (schema document, Connection Pooling)."""

    max_connections: PositiveInt = Field(15, description="connections to one database")
    connection_timeout_ms: PositiveInt = Field(5000, description="to open a connection")
    socket_timeout_ms: PositiveInt = Field(3000, description="to wait for one reply")
    retry_attempts: int = Field(3, ge=0, description="immediate retries of one read-only command")


class RedisSettings(Section):
    """Where Redis is."""

    url: str = Field("embedded", description="embedded, or redis://, rediss://, unix://")
    databases: RedisDatabases = Field(default_factory=RedisDatabases)
    pool: RedisPool = Field(default_factory=RedisPool)
    accept_eviction_risk: bool = Field(
        False, description="start although the eviction policy may delete the buffer itself"
    )

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if url != "embedded" and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be 'embedded' or start with redis://, rediss:// or unix://")
        return url


class ClickHouseSettings(Section):
    """Where ClickHouse is."""

    dsn: str = Field("embedded", description="embedded, chdb:///path, http://user:password@host:8123, https://…")
    database: str = Field("pipeline", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="database of all tables")
    cluster: str = Field(
        "", pattern=r"^[A-Za-z0-9_-]*$", description="set: replicated and distributed tables, ON CLUSTER"
    )
    connect_timeout_s: Positive = Field(10, description="to open a connection")
    request_timeout_s: Positive = Field(
        60, description="to wait for one answer; then the outcome is in doubt and verified"
    )

    @field_validator("dsn")
    @classmethod
    def _known_scheme(cls, dsn: str) -> str:
        if dsn != "embedded" and not dsn.startswith(("chdb://", "http://", "https://")):
            raise ValueError("must be 'embedded' or start with chdb://, http:// or https://")
        return dsn


class BufferSettings(Section):
    """The list that producers push to."""

    key: str | list[str] = Field("metrics:buffer", description="the list, or several of them")
    max_item_bytes: PositiveInt = Field(65_536, description="a larger item is refused")
    max_depth: PositiveInt = Field(32, description="an item nested deeper is refused")
    high_water_rows: PositiveInt = Field(5_000_000, description="more waiting than this is alarmed")
    high_water_age_s: Positive = Field(300, description="an item waiting longer than this is alarmed")
    high_water_memory_pct: Positive = Field(80, le=100, description="more of Redis maxmemory than this is alarmed")
    overflow: Literal["refuse", "drop_oldest", "spill"] = Field(
        "refuse", description="what happens above the high-water mark: refuse (Redis says no), drop_oldest, spill"
    )

    @field_validator("key")
    @classmethod
    def _some_key(cls, key: str | list[str]) -> str | list[str]:
        if not key or (isinstance(key, list) and len(set(key)) < len(key)):
            raise ValueError("must name one list, or several different ones")
        return key

    @property
    def keys(self) -> list[str]:
        """The buffers, always as a list."""
        return [self.key] if isinstance(self.key, str) else self.key


class DrainerSettings(Section):
    """How the buffer is drained."""

    batch_rows: PositiveInt = Field(100_000, le=1_000_000, description="rows per insert")
    page_rows: PositiveInt = Field(5_000, description="items per read from Redis")
    flush_interval_s: Positive = Field(0.5, description="a partial batch waits no longer")
    lease_s: Positive = Field(60, description="a chunk not acknowledged by then may be taken over")
    durable_seal: bool = Field(
        True, description="a segment's name is on disk before its rows are inserted (power cuts)"
    )
    max_bad_share: float = Field(
        0.5, gt=0, le=1, description="more refused than this in a large batch stops the drainer"
    )
    max_retry_pause_s: Positive = Field(30, description="pauses between retries grow up to this")


class RetentionSettings(Section):
    """How long things are kept; ``retention:performance_metrics`` in Redis overrides ``raw_hours``."""

    raw_hours: PositiveInt = Field(720, description="raw rows; an older timestamp is refused")
    rollup_days: PositiveInt = Field(400, description="windows, vitals, baselines, change points, alerts")
    future_s: Positive = Field(300, description="a timestamp further ahead is refused")


class RollupSettings(Section):
    """The 1- and 5-minute windows."""

    interval_s: Positive = Field(5, description="between two runs of the job")
    delay_s: float = Field(2, ge=0, description="a window is computed this long after its end")
    grace_s: float = Field(120, ge=0, description="a window is final this long after its end")


class RunSettings(Section):
    """CI runs."""

    grace_s: Positive = Field(1800, description="a run is final when no row of it came for this long")
    interval_s: Positive = Field(60, description="between two looks for runs that became final")


class VitalsSettings(Section):
    """Core Web Vitals."""

    interval_s: Positive = Field(15, description="between two runs of the job")
    rolling_s: PositiveInt = Field(3600, description="span of cwv:* and compat:scores in Redis")
    browser_aliases: dict[str, str] = Field(
        default_factory=lambda: {
            "chromium": "chrome",
            "google-chrome": "chrome",
            "webkit": "safari",
            "msedge": "edge",
            "microsoft-edge": "edge",
        },
        description="browser as sent to browser as reported",
    )


class BaselineSettings(Section):
    """What is normal."""

    interval_s: Positive = Field(60, description="between two runs of the job")
    days: Positive = Field(7, description="how far back runs count")
    max_runs: PositiveInt = Field(50, description="at most this many of the newest runs count")
    min_runs: PositiveInt = Field(12, description="fewer are insufficient_history")
    branches: list[str] = Field(
        default_factory=lambda: ["", "main", "master"],
        description="speed is judged on runs of these branches; the empty one is a run that names none",
    )


class ChangeSettings(Section):
    """The change detector."""

    interval_s: Positive = Field(120, description="between two runs of the job")
    days: Positive = Field(14, description="how far back series are searched")
    max_points: PositiveInt = Field(400, description="points of one series, the newest ones")
    false_discovery_rate: float = Field(0.01, gt=0, lt=1, description="expected share of false changes over all series")


class AlertSettings(Section):
    """The evaluator and its channels."""

    rules_file: str = Field("", description="empty: config/rules.yaml as shipped")
    interval_s: Positive = Field(10, description="between two evaluations")
    delay_s: float = Field(10, ge=0, description="evaluated is what was stored this long ago")
    channels: list[dict[str, Any]] = Field(default_factory=list, description="where notifications go besides Redis")
    page_url: str = Field("", description="address of the page, for links in notifications")


class WebSettings(Section):
    """HTTP interfaces."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="the page, /metrics, health")
    clickhouse_port: int = Field(
        8123, ge=0, le=65535, description="embedded store only: ClickHouse's HTTP interface, read-only"
    )
    query_max_s: Positive = Field(30, description="a query of an analyst may take this long")
    query_max_at_once: PositiveInt = Field(4, description="so many queries of analysts run at once; others wait")
    query_max_memory_bytes: PositiveInt = Field(
        2_000_000_000, description="memory of all of them together; each query may take an equal share of it"
    )
    query_max_result_rows: PositiveInt = Field(1_000_000, description="and return this many rows")


class LogSettings(Section):
    """Structured logs on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level written")
    format: Literal["auto", "json", "pretty"] = Field("auto", description="auto: pretty on a terminal, json elsewhere")


class Settings(BaseSettings):
    """All settings of the pipeline."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
    )

    redis: RedisSettings = Field(default_factory=RedisSettings)
    clickhouse: ClickHouseSettings = Field(default_factory=ClickHouseSettings)
    data_dir: Path = Field(Path("./data"), description="where the embedded engines keep their files")
    buffer: BufferSettings = Field(default_factory=BufferSettings)
    drainer: DrainerSettings = Field(default_factory=DrainerSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    rollups: RollupSettings = Field(default_factory=RollupSettings)
    runs: RunSettings = Field(default_factory=RunSettings)
    vitals: VitalsSettings = Field(default_factory=VitalsSettings)
    baselines: BaselineSettings = Field(default_factory=BaselineSettings)
    changes: ChangeSettings = Field(default_factory=ChangeSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    web: WebSettings = Field(default_factory=WebSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Our own ``load`` merges file and environment; pydantic-settings only validates."""
        return (init_settings,)


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    ``path`` (or ``PIPELINE_CONFIG``) names a YAML file; without one the shipped defaults apply.
    ``environment`` defaults to the process's own.

    Raises ``ConfigError`` with one sentence naming key, value and nearest valid name.
    """
    environment = os.environ if environment is None else environment
    if path is None and environment.get(CONFIG_PATH_VARIABLE):
        path = Path(environment[CONFIG_PATH_VARIABLE])
    values = _read_yaml(path) if path is not None else {}
    _merge(values, _from_environment(environment))
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def private(settings: Settings, directory: Path) -> Settings:
    """The same settings on embedded engines in ``directory``, whatever servers they name; for demo and bench."""
    return settings.model_copy(
        update={
            "data_dir": directory,
            "redis": settings.redis.model_copy(update={"url": "embedded", "databases": RedisDatabases()}),
            "clickhouse": settings.clickhouse.model_copy(update={"dsn": "embedded", "cluster": ""}),
        }
    )


def setting_paths() -> Iterator[tuple[str, Any, str]]:
    """Every setting as (dotted path, default, meaning); the README is checked against it."""
    yield from _paths(Settings, "")


def _paths(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _paths(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.get_default(call_default_factory=True), field.description or ""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration file {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not YAML: {' '.join(str(error).split())}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"configuration file {path} must hold a mapping, not a {type(loaded).__name__}")
    return loaded


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """``PIPELINE_REDIS__POOL__MAX_CONNECTIONS=5`` becomes {"redis": {"pool": {"max_connections": "5"}}}."""
    values: dict[str, Any] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_PATH_VARIABLE:
            continue
        name = variable[len(ENV_PREFIX) :].lower()
        head = name.split("__", 1)[0]
        is_file = name.endswith("_file") and name != "alerts__rules_file"
        # Other programs' variables may share the prefix; a section's name or a double underscore marks ours.
        if "__" not in name and head.removesuffix("_file") not in Settings.model_fields:
            continue
        if is_file:
            name = name.removesuffix("_file")
        node = values
        *parents, leaf = name.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"{ENV_PREFIX}{parent.upper()} and {variable} cannot both be set: one is a part of the other"
                )
        node[leaf] = _parse_text(_read_secret(variable, text) if is_file else text)
    return values


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{variable} names the file {path!r}: {error.strerror or error}") from None


def _parse_text(text: str) -> Any:
    """Lists and mappings are written as JSON in a variable; everything else stays text for pydantic to convert."""
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    location = [
        str(part)
        for part in first["loc"]
        if not (isinstance(part, str) and part.startswith(("function-", "list[", "str")))
    ]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = _names_at(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
        hint = f"; did you mean {'.'.join([*location[:-1], near[0]])!r}?" if near else ""
        return f"unknown setting {key!r} (value {first['input']!r}){hint}"
    message = first["msg"].removeprefix("Value error, ")
    # An address may carry a password.
    value = re.sub(r"(://[^:/@\s]*:)[^@\s]+@", r"\1…@", repr(first["input"]))
    return f"setting {key!r} has the value {value}: {message[:1].lower() + message[1:]}"


def _names_at(location: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        candidates = [inner, *get_args(inner)]
        nested = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if nested is None:
            return []
        model = nested
    return list(model.model_fields)

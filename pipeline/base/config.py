"""Settings: ``config/pipeline.yaml``, each overridable by ``PIPELINE_<SECTION>__<NAME>``.

One small object per part, frozen once read. An unknown key, a wrong type or an
impossible value stops the start with one sentence that names the key, the value
where it can hold no secret, and the nearest valid name. A secret may also stand in
a file named by the same variable with ``_FILE`` appended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.base.config_sections import (
    LONGEST_KEPT_DAYS,
    WRITTEN_ENTRIES,
    AlertSettings,
    BaselineSettings,
    BufferSettings,
    ChangeSettings,
    ClickHouseSettings,
    CollectSettings,
    DrainerSettings,
    FleetSettings,
    FormFactor,
    LogSettings,
    PublishSettings,
    RedisDatabases,
    RedisPool,
    RedisSettings,
    RetentionSettings,
    RollupSettings,
    RunSettings,
    TlsSettings,
    VitalsSettings,
    WebSettings,
    demand_server_for_cluster,
)
from pipeline.base.config_sentences import sentence
from pipeline.base.config_sources import CONFIG_PATH_VARIABLE, ENV_PREFIX, Given, gather
from pipeline.base.config_types import is_text, leaves, secrets_in, shown
from pipeline.base.errors import ConfigError
from pipeline.base.text import masked, printable, remember_secret

__all__ = [
    "CONFIG_PATH_VARIABLE",
    "ENV_PREFIX",
    "LONGEST_KEPT_DAYS",
    "WRITTEN_ENTRIES",
    "AlertSettings",
    "BaselineSettings",
    "BufferSettings",
    "ChangeSettings",
    "ClickHouseSettings",
    "CollectSettings",
    "DrainerSettings",
    "FleetSettings",
    "FormFactor",
    "LogSettings",
    "PublishSettings",
    "RedisDatabases",
    "RedisPool",
    "RedisSettings",
    "RetentionSettings",
    "RollupSettings",
    "RunSettings",
    "Settings",
    "TlsSettings",
    "VitalsSettings",
    "WebSettings",
    "changed_settings",
    "demand_server_for_cluster",
    "load",
    "private",
    "setting_paths",
    "with_origins",
]

# A distributed table keeps this many positions of a segment together on one shard.
_ROWS_OF_A_SHARD = 1_000_000


class Settings(BaseSettings):
    """All settings of the pipeline."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    redis: RedisSettings = Field(default_factory=RedisSettings)
    clickhouse: ClickHouseSettings = Field(default_factory=ClickHouseSettings)
    data_dir: Path = Field(Path("./data"), description="where the embedded engines keep their files")
    buffer: BufferSettings = Field(default_factory=BufferSettings)
    drainer: DrainerSettings = Field(default_factory=DrainerSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    rollups: RollupSettings = Field(default_factory=RollupSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    collect: CollectSettings = Field(default_factory=CollectSettings)
    runs: RunSettings = Field(default_factory=RunSettings)
    vitals: VitalsSettings = Field(default_factory=VitalsSettings)
    baselines: BaselineSettings = Field(default_factory=BaselineSettings)
    changes: ChangeSettings = Field(default_factory=ChangeSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    web: WebSettings = Field(default_factory=WebSettings)
    fleet: FleetSettings = Field(default_factory=FleetSettings)
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

    @model_validator(mode="after")
    def _chunks_fit_shards(self) -> Settings:
        if self.clickhouse.cluster and _ROWS_OF_A_SHARD % self.drainer.batch_rows:
            raise ValueError(
                f"drainer.batch_rows is {self.drainer.batch_rows}, and clickhouse.cluster is set: there it must divide "
                "1,000,000, or chunks are split over shards; choose 100000, 125000, 200000, 250000 or 500000"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        is_embedded = self.clickhouse.dsn == "embedded" or self.clickhouse.dsn.startswith("chdb://")
        if is_embedded and self.web.port and self.web.port == self.web.clickhouse_port:
            raise ValueError(f"web.port and web.clickhouse_port are both {self.web.port}; each needs a port of its own")
        return self

    @field_validator("data_dir")
    @classmethod
    def _file_name(cls, data_dir: Path) -> Path:
        if "\0" in str(data_dir):
            raise ValueError("holds a NUL character, which no file name has")
        return data_dir


def changed_settings(before: Settings, after: Settings) -> list[str]:
    """The names of the settings that differ, as ``drainer.batch_rows``; never their values."""

    def differing(one: Any, other: Any, place: str) -> list[str]:
        if one == other:
            return []
        if isinstance(one, BaseModel) and isinstance(other, type(one)):
            names = type(one).model_fields
            return [
                found
                for name in names
                for found in differing(getattr(one, name), getattr(other, name), f"{place}.{name}" if place else name)
            ]
        return [place]

    return differing(before, after, "")


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    ``path`` (or ``PIPELINE_CONFIG``) names a YAML file; without one the shipped defaults apply.
    ``environment`` defaults to the process's own. From now on no log line or error shows a secret among them.

    Raises ``ConfigError`` with one sentence naming the key and the nearest valid name.
    """
    return _checked(_given(path, environment))


def with_origins(
    path: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Every effective setting as (dotted path, value for people, where it comes from). Raises as ``load`` does."""
    given = _given(path, environment)
    settings = _checked(given)
    for name, field in leaves(Settings):
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        yield name, _names_in(value) or shown(field, value), given.origins.get(name, "default")


def _names_in(value: Any) -> str:
    """Entries such as channels by their names alone; empty for any other value."""
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        return ""
    return ", ".join(printable(masked(str(one.get("name", "(no name)")))) for one in value)


def _given(path: Path | None, environment: Mapping[str, str] | None) -> Given:
    environment = os.environ if environment is None else environment
    if path is None and environment.get(CONFIG_PATH_VARIABLE):
        path = Path(environment[CONFIG_PATH_VARIABLE])
    fields = dict(leaves(Settings))
    given = gather(path, environment, set(fields), {name for name, field in fields.items() if is_text(field)})
    for secret in secrets_in(given.values, fields):
        remember_secret(secret)
    return given


def _checked(given: Given) -> Settings:
    try:
        return Settings(**{str(name): value for name, value in given.values.items()})
    except ValidationError as error:
        raise ConfigError(sentence(error, Settings)) from None


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
    """Every setting as (dotted path, default, meaning); the documentation is checked against it."""
    for name, field in leaves(Settings):
        yield name, field.get_default(call_default_factory=True), field.description or ""

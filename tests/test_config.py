"""Settings: where a value comes from, which one wins, and what a mistake sounds like."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from annotated_types import Ge, Gt, Le
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from redis.crc import key_slot

from pipeline.analyse import shifts
from pipeline.base import config, config_sections, resources
from pipeline.base.config import Settings
from pipeline.base.errors import ConfigError
from pipeline.base.keys import BufferKeys
from pipeline.operate import preflight
from pipeline.store.client import Store

PATHS = {path: (default, meaning) for path, default, meaning in config.setting_paths()}

# A valid value other than the default, where "one more" or "half" will not do.
OTHER_VALUES: dict[str, Any] = {
    "redis.url": "redis://elsewhere:6379",
    "clickhouse.dsn": "https://elsewhere:8443",
    "clickhouse.database": "other",
    "clickhouse.cluster": "main",
    "data_dir": "/elsewhere",
    "buffer.key": ["a:{buffer}", "b:{buffer}"],
    "buffer.overflow": "spill",
    "drainer.batch_rows": 50_000,
    "vitals.browser_aliases": {"konqueror": "safari"},
    "vitals.form_factor": "desktop",
    "vitals.form_factors": {"staging": "desktop"},
    "changes.min_change_pct": {"default": 3.0, "lcp": 1.0},
    "alerts.rules_file": "rules.yaml",
    "alerts.channels": [{"url": "json://elsewhere"}],
    "alerts.page_url": "https://elsewhere",
    "web.host": "::1",
    "web.token": "t0ken",
    "web.user": "ann",
    "web.password": "s3cret",
    "web.names": ["metrics.example.org"],
    "web.write_key": "wr1te",
    "web.vitals_origins": ["https://shop.example.org"],
    "publish.skip": ["test_history"],
    "collect.skip": ["workers"],
    "collect.keys": [{"pattern": "gpu:{node}", "type": "hash", "field": "load", "metric_type": "gpu_load"}],
    "collect.executions": "missing",
    "baselines.branches": ["release"],
    "fleet.name": "other",
    "log.level": "error",
    "log.format": "pretty",
}


def other_value(path: str) -> Any:
    default = PATHS[path][0]
    if path in OTHER_VALUES:
        return OTHER_VALUES[path]
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return "/elsewhere/file.pem"
    return default + 1 if isinstance(default, int) and default != 80 else default / 2


def variable_of(path: str) -> str:
    return config.ENV_PREFIX + path.upper().replace(".", "__")


def as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def as_mapping(path: str, value: Any) -> dict[str, Any]:
    *sections, name = path.split(".")
    mapping = {name: value}
    for section in reversed(sections):
        mapping = {section: mapping}
    return mapping


def read(loaded: config.Settings, path: str) -> Any:
    value: Any = loaded
    for part in path.split("."):
        value = getattr(value, part)
    return value


def sentence(path: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """What the operator reads when these settings stop the start."""
    with pytest.raises(ConfigError) as stopped:
        config.load(path, environment or {})
    text = str(stopped.value)
    assert "\n" not in text
    return text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pipeline.yaml"


def test_shipped_file_is_the_defaults() -> None:
    """config/pipeline.yaml, read as it is shipped, changes nothing."""
    assert config.load(resources.path("config/pipeline.yaml"), {}) == config.load(None, {})


def test_shipped_file_explains_every_setting() -> None:
    """config/pipeline.yaml names every setting and says of each what the code says, and names no other."""
    text = resources.text("config/pipeline.yaml")
    assert set(_flat(yaml.safe_load(text))) == set(PATHS)
    for path, (_, meaning) in PATHS.items():
        name = path.rsplit(".", 1)[-1]
        assert re.search(rf"^ *{name}:.*  # {re.escape(meaning)}$", text, re.MULTILINE), f"{path}: {meaning}"


def _flat(values: dict[str, Any], prefix: str = "") -> list[str]:
    paths = []
    for name, value in values.items():
        path = prefix + name
        paths += [path] if path in PATHS or not isinstance(value, dict) else _flat(value, path + ".")
    return paths


@pytest.mark.parametrize("path", PATHS)
def test_every_setting_is_overridable(path: str, file: Path) -> None:
    """Environment and file mean the same by a value, each beats the default, and the environment beats the file."""
    default, value = PATHS[path][0], other_value(path)
    by_environment = config.load(None, {variable_of(path): as_text(value)})
    assert read(config.load(None, {}), path) == default != read(by_environment, path)

    file.write_text(yaml.safe_dump(as_mapping(path, value)))
    assert config.load(file, {}) == by_environment

    if not isinstance(default, dict):  # the entries of a mapping are merged
        file.write_text(yaml.safe_dump(as_mapping(path, json.loads(json.dumps(default, default=str)))))
        assert config.load(file, {variable_of(path): as_text(value)}) == by_environment


@pytest.mark.parametrize("path", [path for path, (default, _) in PATHS.items() if isinstance(default, str)])
def test_every_text_may_stand_in_a_file(path: str, tmp_path: Path) -> None:
    """VARIABLE_FILE names a file with the value, as secrets are mounted; a trailing newline does not count."""
    secret = tmp_path / "secret"
    secret.write_text(as_text(other_value(path)) + "\n")
    by_value = config.load(None, {variable_of(path): as_text(other_value(path))})
    assert config.load(None, {variable_of(path) + "_FILE": str(secret)}) == by_value


def test_missing_secret_stops_the_start() -> None:
    """A secret's file that is not there is named, with its variable."""
    text = sentence(environment={"PIPELINE_REDIS__URL_FILE": "/nowhere/redis_url"})
    assert "PIPELINE_REDIS__URL_FILE" in text
    assert "/nowhere/redis_url" in text


def test_file_named_by_the_environment(file: Path) -> None:
    """PIPELINE_CONFIG names the file; a path given on the command line beats it."""
    file.write_text("drainer: {batch_rows: 7}")
    other = file.with_name("other.yaml")
    other.write_text("drainer: {batch_rows: 8}")
    environment = {"PIPELINE_CONFIG": str(file)}
    assert config.load(None, environment).drainer.batch_rows == 7
    assert config.load(other, environment).drainer.batch_rows == 8


def bounds() -> Iterator[tuple[type[BaseModel], str, float, float]]:
    """Section, setting, a bound of it and a value beyond."""
    sections = [Settings]
    while sections:
        section = sections.pop()
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                sections.append(field.annotation)
            step = 1 if field.annotation is int else 1e-3
            for bound in field.metadata:
                if isinstance(bound, Le):
                    yield section, name, float(bound.le), bound.le + step  # type: ignore[operator]
                elif isinstance(bound, Ge):
                    yield section, name, float(bound.ge), bound.ge - step  # type: ignore[operator,arg-type]
                elif isinstance(bound, Gt):
                    yield section, name, bound.gt + step, float(bound.gt)  # type: ignore[operator,arg-type]


@pytest.mark.parametrize(
    ("section", "name", "at", "beyond"),
    list(bounds()),
    ids=lambda one: one.__name__ if isinstance(one, type) else str(one),
)
def test_every_bound_of_a_setting_holds(section: type[BaseModel], name: str, at: float, beyond: float) -> None:
    """What a setting says of its least and its largest value is so, whatever its type says besides."""

    def complaints(value: float) -> list[str]:
        try:
            section.model_validate({name: int(value) if section.model_fields[name].annotation is int else value})
        except ValidationError as error:
            return [one["type"] for one in error.errors() if one["loc"] == (name,)]
        return []

    assert complaints(at) == []
    assert complaints(beyond), f"{name} takes {beyond}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("drainer: {batch_row: 7}", ("drainer.batch_row'", "did you mean 'drainer.batch_rows'")),
        ("drianer: {batch_rows: 7}", ("drianer'", "did you mean 'drainer'")),
        ("redis: {pool: {max_conections: 7}}", ("redis.pool.max_conections'", "'redis.pool.max_connections'")),
        ("drainer: {batch_rows: many}", ("drainer.batch_rows", "many", "integer")),
        ("drainer: {batch_rows: 0}", ("drainer.batch_rows", "0", "greater than 0")),
        ("drainer: {batch_rows: 2.5}", ("drainer.batch_rows", "2.5")),
        ("drainer: 7", ("drainer", "is a section")),
        ("log: {level: loud}", ("log.level", "loud", "'debug'")),
        ("redis: {url: 'http://localhost'}", ("redis.url", "http://localhost", "redis://")),
        ("clickhouse: {dsn: localhost}", ("clickhouse.dsn", "localhost", "https://")),
        ("redis: {url: 'redis://h1:1,h2:2'}", ("redis.url", "several servers")),
        ("redis: {url: 'redis://[::1'}", ("redis.url", "IPv6")),
        ("redis: {url: 'redis://h:port'}", ("redis.url", "1 to 65535")),
        ("redis: {url: 'redis://h:6379/5'}", ("redis.url", "'redis.databases.metrics' to 5")),
        ("redis: {url: 'redis://h:6379?socket_timeout=no'}", ("redis.url", "'socket_timeout'")),
        ("redis: {url: 'redis://h:6379?max_connections=10001'}", ("redis.url", "'max_connections'", "10000")),
        ("redis: {pool: {max_connections: 3600000}}", ("redis.pool.max_connections", "3600000", "10000")),
        ("redis: {url: 'redis://h:6379?socket_timeuot=5'}", ("redis.url", "did you mean 'socket_timeout'")),
        ("redis: {url: 'rediss://h?ssl_ca_cert=x'}", ("redis.url", "did you mean 'ssl_ca_certs'")),
        ("redis: {url: 'rediss://h?ssl_cert_reqs=none'}", ("redis.url", "redis.tls.ca_file")),
        ("clickhouse: {dsn: 'http://h:99999'}", ("clickhouse.dsn", "1 to 65535")),
        ("clickhouse: {dsn: 'http://h:8123/db'}", ("clickhouse.dsn", "'clickhouse.database'")),
        ("clickhouse: {dsn: 'https://h?verify=false'}", ("clickhouse.dsn", "'verify'", "clickhouse.tls")),
        ("clickhouse: {dsn: 'chdb://relative'}", ("clickhouse.dsn", "absolute path")),
        ("web: {port: 70000}", ("web.port", "70000", "65535")),
        ("changes: {max_points: 11}", ("changes.max_points", "11", "12")),
        ("baselines: {min_runs: 12, max_runs: 16}", ("baselines.max_runs 16", "at least 17")),
        ("drainer: {flush_interval_s: .inf}", ("drainer.flush_interval_s", "inf")),
        ("drainer: {flush_interval_s: 1e-9}", ("drainer.flush_interval_s", "1e-9", "0.01")),
        ("drainer: {lease_s: 0.001}", ("drainer.lease_s", "0.001", "equal to 1")),
        ("drainer: {max_retry_pause_s: 1e-9}", ("drainer.max_retry_pause_s", "1e-9", "0.01")),
        ("clickhouse: {request_timeout_s: 0.001}", ("clickhouse.request_timeout_s", "0.001", "0.1")),
        ("drainer: {flush_interval_s: 1e300}", ("drainer.flush_interval_s", "1e300")),
        ("redis: {pool: 7}\nlog: {level: info}\nredis: {url: embedded}", ("'redis' twice", "lines 1 and 3")),
        ("log: {level: info, level: debug}", ("'level' twice",)),
        ("7: x", ("is not the name of a setting",)),
        ("? [a, b]\n: x", ("not YAML", "line 1")),
        ("log: {level: 2024-13-45}", ("not YAML",)),
        ("a: &a [*a]", ("not YAML", "recursive")),
        ("[" * 5000, ("nested too deep",)),
        ("log: \x00", ("not YAML",)),
        ("clickhouse: {database: 'a; DROP'}", ("clickhouse.database", "should match the pattern")),
        ("- drainer", ("mapping", "list")),
        ("drainer: [", ("not YAML",)),
    ],
)
def test_mistake_is_one_sentence(text: str, named: tuple[str, ...], file: Path) -> None:
    """A mistake in the file names the key, the value and the nearest valid name."""
    file.write_text(text)
    found = sentence(file)
    assert all(name in found for name in named), found


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("PIPELINE_DRAINER__BATCH_ROW", "drainer.batch_rows"),
        ("PIPELINE_DRAINR__BATCH_ROWS", "drainer"),
        ("PIPELINE_REDIS__DATABASES__METRIC", "redis.databases.metrics"),
    ],
)
def test_misspelt_variable_is_not_ignored(variable: str, named: str) -> None:
    """A misspelt variable stops the start instead of leaving the default in force."""
    assert f"did you mean '{named}'" in sentence(environment={variable: "7"})


def test_the_runs_that_a_shift_needs_are_those_that_it_is_sought_in() -> None:
    """The setting's check and the test for a shift count the same newest runs."""
    assert config_sections.NEWEST_RUNS == shifts.NEWEST_RUNS


@pytest.mark.parametrize("path", [path for path in PATHS if path.endswith("interval_s")])
def test_an_interval_without_rest_is_refused(path: str) -> None:
    """A billionth of a second between two turns would keep a core busy and let no stop through."""
    found = sentence(environment={variable_of(path): "1e-9"})
    assert path in found and "greater than or equal to 0." in found


def test_missing_file_is_named() -> None:
    """A configuration file that is not there is named."""
    assert "/nowhere/pipeline.yaml" in sentence(Path("/nowhere/pipeline.yaml"))


names = st.from_regex(r"[A-Z]+(_[A-Z]+)*", fullmatch=True)
sections = st.sampled_from(sorted({path.split(".")[0].upper() for path in PATHS if "." in path}))


@given(sections, st.lists(names, min_size=1, max_size=3).map("__".join), st.text(min_size=1, max_size=20))
def test_no_variable_is_silently_ignored(section: str, name: str, value: str) -> None:
    """Whatever a variable of one of our sections says is either a setting's new value or a reason to stop."""
    path = f"{section}__{name}".lower().replace("__", ".")
    if path in PATHS or path.removesuffix("_file") in PATHS:
        return
    with pytest.raises(ConfigError):
        config.load(None, {f"{config.ENV_PREFIX}{section}__{name}": value})


@settings(max_examples=10)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=50))
def test_any_text_is_read_or_refused_with_a_sentence(value: str) -> None:
    """No text in a variable ends in anything but settings or a ConfigError."""
    for path in PATHS:
        try:
            config.load(None, {variable_of(path): value})
        except ConfigError as error:
            assert path in str(error)


@pytest.mark.parametrize(
    "name",
    [
        *("PIPELINE_ID", "PIPELINE_SOURCE", "PIPELINE_RUN_ID", "PIPELINE_COMMIT", "PIPELINE_BRANCH", "PIPELINE_JOB"),
        *("PIPELINE_REDIS_PORT", "PIPELINE_WEB_SERVICE_HOST", "PIPELINE_TRIGGER__CAUSE", "PIPELINE_"),
    ],
)
def test_other_programs_variables_are_left_alone(name: str) -> None:
    """PIPELINE_ is a common prefix in CI: a variable whose section and key are not both known is not a setting."""
    assert config.load(None, {name: "7"}) == config.load(None, {})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PIPELINE_REDIS_URL", "PIPELINE_REDIS__URL for 'redis.url'"),
        ("PIPELINE_REDIS___URL", "PIPELINE_REDIS__URL for 'redis.url'"),
        ("PIPELINE__REDIS__URL", "PIPELINE_REDIS__URL for 'redis.url'"),
        ("PIPELINE_REDIS_URL_FILE", "PIPELINE_REDIS__URL_FILE for 'redis.url'"),
        ("PIPELINE_WEB_PORT", "PIPELINE_WEB__PORT for 'web.port'"),
        ("PIPELINE_REDIS_POOL_MAX_CONNECTIONS", "PIPELINE_REDIS__POOL__MAX_CONNECTIONS for"),
        ("PIPELINE_DATADIR", "PIPELINE_DATA_DIR for 'data_dir'"),
        ("pipeline_clickhouse_dsn", "PIPELINE_CLICKHOUSE__DSN for 'clickhouse.dsn'"),
    ],
)
def test_variable_with_wrong_underscores_is_refused(name: str, meant: str) -> None:
    """A variable whose section and key are known, but not its underscores, stops the start with the right name."""
    text = sentence(environment={name: "redis://:hunter2hunter2@h"})
    assert f"did you mean {meant}" in text
    assert "hunter2" not in text


def test_variable_given_in_two_ways_is_refused(tmp_path: Path) -> None:
    """A value and a secret file for the same setting contradict each other, as do two spellings of a variable."""
    (tmp_path / "secret").write_text("redis://h")
    both = {"PIPELINE_REDIS__URL": "redis://a", "PIPELINE_REDIS__URL_FILE": str(tmp_path / "secret")}
    assert "both set 'redis.url'" in sentence(environment=both)
    assert "both set" in sentence(environment={"PIPELINE_REDIS__URL": "redis://a", "pipeline_redis__url": "redis://b"})


SECRET = "hunter2-Xy/Z@:#%"


@pytest.mark.parametrize(
    "text",
    [
        "redis: {ur1: '{url}'}",
        "redis: {url: '{url}', password: '{secret}'}",
        "redis: '{url}'",
        "redis: ['{url}']",
        "rediss: {url: '{url}'}",
        "redis: {url: {password: '{secret}'}}",
        "web: {password: 76543210}",
        "web: {write_key: 7654.3210}",
        "web: {token: true}",
        "web: 76543210",
        "redis: {url: 76543210}",
        "redis: {url: ['{secret}']}",
        "redis: {url: '{url}'}",
        "redis: {url: 'redis://:{secret}'}",
        "redis: {url: '{secret}'}",
        "redis: {databases: {metrics: '{url}'}}",
        "redis: {databases: {metrics: {x: '{secret}'}}}",
        "redis: {pool: {max_connections: '{url}'}}",
        "redis:\n  url: *{secret}",
        "redis:\n  url: !{secret} x",
        "redis:\n  url: %{secret}",
        "redis:\n  url: '{url}\n",
        "redis: {url: {secret}",
        "clickhouse: {dsn: 'http://u:{secret}@h:8123/x'}",
        "clickhouse: {dsn: 'http://u:{secret}@h:port'}",
        "clickhouse: {database: '{secret}'}",
        "log: {level: 'redis://:{secret}@h'}",
        "alerts: {channels: '{secret}'}",
        "alerts: {channels: ['{secret}']}",
        "alerts: {channels: {url: '{url}'}}",
        "alerts: {channels: [1, {url: '{url}'}]}",
        "data_dir: {x: '{secret}'}",
        "drainer: {batch_rows: ['{secret}']}",
        "'{url}': x",
    ],
)
@pytest.mark.parametrize("secret", [SECRET, "hunter2 x"])
def test_no_mistake_shows_a_secret(text: str, secret: str, file: Path) -> None:
    """Whatever is wrong with a file of settings, and wherever the password stands, no part of it is shown."""
    file.write_text(text.replace("{url}", f"redis://:{secret}@h:6379").replace("{secret}", secret))
    found = sentence(file)
    assert "hunter2" not in found
    assert "Xy" not in found
    assert "7654" not in found
    assert "True" not in found


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PIPELINE_ALERTS__CHANNELS", '[{"url": "https://hooks.example.com/hunter2"'),
        ("PIPELINE_ALERTS__CHANNELS", "https://hooks.example.com/hunter2"),
        ("PIPELINE_REDIS", '{"url": "redis://:hunter2@h:1:2"}'),
        ("PIPELINE_REDIS", "redis://:hunter2@h"),
        ("PIPELINE_REDIS__URL", '["hunter2"]'),
        ("PIPELINE_REDIS__URL__PASSWORD", "hunter2"),
        ("PIPELINE_REDIS__PASSWORD", "hunter2"),
        ("PIPELINE_REDIS__PASSWORD", '{"a": "hunter2"}'),
    ],
)
def test_no_variable_shows_a_secret(variable: str, value: str) -> None:
    """Broken JSON, a value for a section, a section for a value: the sentence names the setting alone."""
    assert "hunter2" not in sentence(environment={variable: value})


def test_origins(file: Path, tmp_path: Path) -> None:
    """Every effective setting tells where it comes from; passwords are masked."""
    (tmp_path / "dsn").write_text("https://writer:hunter2@ch:9443")
    file.write_text("drainer: {batch_rows: 7}\nredis: {url: 'redis://:hunter2@h:1'}")
    environment = {"PIPELINE_WEB__PORT": "81", "PIPELINE_CLICKHOUSE__DSN_FILE": str(tmp_path / "dsn")}
    shown = {path: (value, origin) for path, value, origin in config.with_origins(file, environment)}
    assert list(shown) == list(PATHS)
    assert shown["drainer.batch_rows"] == ("7", f"file {file}")
    assert shown["redis.url"] == ("'redis://:***@h:1'", f"file {file}")
    assert shown["clickhouse.dsn"] == ("'https://writer:***@ch:9443'", "secret file of PIPELINE_CLICKHOUSE__DSN_FILE")
    assert shown["web.port"] == ("81", "variable PIPELINE_WEB__PORT")
    assert shown["web.host"] == ("'127.0.0.1'", "default")


def test_settings_do_not_change_after_the_start() -> None:
    """A value once read cannot be replaced, at any depth."""
    loaded = config.load(None, {})
    for owner, name in (
        (loaded, "data_dir"),
        (loaded.drainer, "batch_rows"),
        (loaded.redis.pool, "retry_attempts"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(owner, name, getattr(owner, name))


def test_settings_that_changed_are_named_and_never_shown() -> None:
    """What a reload cannot take over is named by its path; values, which may be secrets, are not said."""
    before = config.Settings()
    changed = before.model_copy(
        update={
            "drainer": before.drainer.model_copy(update={"batch_rows": 5000}),
            "redis": before.redis.model_copy(update={"url": "redis://:secret@elsewhere"}),
        }
    )
    assert config.changed_settings(before, before) == []
    assert config.changed_settings(before, changed) == ["redis.url", "drainer.batch_rows"]


@pytest.mark.parametrize("key", ["a{b", "a}b", "a{}b", "}{", "{"])
def test_braces_that_are_no_hash_tag_are_refused(file: Path, key: str) -> None:
    """A buffer's parts must share a slot on Redis Cluster; the sentence says what to write instead."""
    file.write_text(f"buffer:\n  key: '{key}'\n")
    with pytest.raises(ConfigError, match=r"no hash tag.*'\{metrics\}:buffer'"):
        config.load(file, {})


@pytest.mark.parametrize("key", ["metrics:buffer", "{a}:b", "x{a}y", "{a}{b"])
def test_hash_tags_are_kept(file: Path, key: str) -> None:
    """A key with a hash tag, or without braces, shares its slot with everything that belongs to it."""
    file.write_text(f"buffer:\n  key: '{key}'\n")
    keys = BufferKeys(config.load(file, {}).buffer.keys[0])
    assert key_slot(keys.segments.encode()) == key_slot(key.encode())


def test_a_number_with_a_leading_zero_is_decimal(file: Path) -> None:
    """In the file as in a variable; YAML 1.1 would read 8."""
    file.write_text("web: {port: 0010}\n")
    assert config.load(file, {}).web.port == config.load(None, {"PIPELINE_WEB__PORT": "0010"}).web.port == 10


@pytest.mark.parametrize("dsn", ["embedded", "chdb:///somewhere"])
def test_the_embedded_engine_is_no_cluster(file: Path, dsn: str) -> None:
    """Refused before anything is opened, by ``validate`` and by each command that opens ClickHouse, in one sentence."""
    file.write_text(f"clickhouse: {{dsn: '{dsn}', cluster: main}}\n")
    settings = config.load(file, {})
    for act in (preflight.check, Store.open):
        with pytest.raises(
            ConfigError, match=r"^clickhouse.cluster is 'main', but clickhouse.dsn is the embedded engine"
        ):
            act(settings)


def test_chunks_must_fit_the_shards_of_a_cluster(file: Path) -> None:
    """On a cluster ``drainer.batch_rows`` divides a million, or chunks would be split over shards."""
    file.write_text("clickhouse:\n  cluster: c\ndrainer:\n  batch_rows: 30000\n")
    with pytest.raises(ConfigError, match=r"drainer\.batch_rows is 30000.*choose 100000"):
        config.load(file, {})
    file.write_text("clickhouse:\n  cluster: c\ndrainer:\n  batch_rows: 125000\n")
    assert config.load(file, {}).drainer.batch_rows == 125_000


NUMBERS = sorted(
    path for path, (default, _) in PATHS.items() if isinstance(default, int | float) and not isinstance(default, bool)
)


@pytest.mark.parametrize(
    ("path", "given"),
    [
        *((path, "true") for path in [*NUMBERS, "changes.min_change_pct.lcp"]),
        *(("web.port", given) for given in ("no", "1:30", "yes please")),
        *(("drainer.lease_s", given) for given in ("off", "1:30.5", "60s")),
    ],
)
def test_no_number_is_read_into_what_is_none(file: Path, path: str, given: str) -> None:
    """For YAML and pydantic ``true`` is 1 and ``1:30`` is 90; a person who writes that meant something else."""
    *sections, name = path.split(".")
    opening = "".join(f"{section}: {{" for section in sections)
    file.write_text(f"{opening}{name}: {given}{'}' * len(sections)}\n")
    with pytest.raises(
        ConfigError, match=rf"^setting '{path}' has the value .*: should be a (valid )?(number|integer)"
    ):
        config.load(file, {})


@pytest.mark.parametrize("path", NUMBERS)
def test_a_number_beyond_all_use_is_refused(path: str) -> None:
    """No number may be so large that its milliseconds or bytes overflow, nor be infinite or none."""
    *sections, name = path.split(".")
    for value in (10**30, 1e300, float("inf"), float("nan")):
        given: Any = value
        for key in (name, *reversed(sections)):
            given = {key: given}
        with pytest.raises(ValidationError) as refused:
            config.Settings(**given)
        assert any(one["loc"][: len(sections) + 1] == tuple(path.split(".")) for one in refused.value.errors())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "redis: {url: 'redis://h', tls: {ca_file: /ca.pem}}",
            "redis.tls.ca_file is set, but redis.url starts with redis:",
        ),
        ("redis: {url: 'unix:///run/r.sock', tls: {cert_file: /c.pem}}", "redis.tls.cert_file is set"),
        ("clickhouse: {dsn: 'http://h', tls: {ca_file: /ca.pem}}", "clickhouse.tls.ca_file is set, but clickhouse.dsn"),
        ("clickhouse: {database: default}", "choose another, such as 'pipeline'"),
        ("clickhouse: {database: default, dsn: 'chdb:///data'}", "choose another, such as 'pipeline'"),
        ("clickhouse: {database: System, dsn: 'http://h'}", "is ClickHouse's own"),
        ("clickhouse: {database: INFORMATION_SCHEMA}", "is ClickHouse's own"),
        ("web: {port: 8123}", "web.port and web.clickhouse_port are both 8123"),
        ("alerts: {page_url: 'javascript:alert(1)'}", "alerts.page_url"),
        ("alerts: {page_url: 'https://user:hunter2@h/'}", "alerts.page_url"),
        ("alerts: {page_url: 'https:///path'}", "alerts.page_url"),
        ("web: {names: ['http://h']}", "web.names"),
        ("web: {names: ['a b']}", "web.names"),
        ("web: {vitals_origins: [shop.example.org]}", "web.vitals_origins"),
        ("web: {vitals_origins: ['https://h/path']}", "web.vitals_origins"),
    ],
)
def test_what_would_be_ignored_or_harmful_is_refused(text: str, named: str, file: Path) -> None:
    """Certificates beside an address without TLS, databases of ClickHouse, names that match no request."""
    file.write_text(text)
    found = sentence(file)
    assert named in found
    assert "hunter2" not in found
    assert "setting ''" not in found


@pytest.mark.parametrize(
    "text",
    [
        "clickhouse: {database: default, dsn: 'http://h'}",
        "web: {port: 8123}\nclickhouse: {dsn: 'http://h'}",
        "web: {port: 0, clickhouse_port: 0}",
        "web: {names: [h, 'h:1', 10.0.0.1, '[::1]:80', localhost]}",
        "web: {vitals_origins: ['*', 'null', 'HTTPS://Shop.example.org:8443/', 'capacitor://localhost']}",
        "alerts: {page_url: 'http://h:8080/metrics/?a=b'}",
        "redis: {tls: {ca_file: /ca.pem}}",
    ],
)
def test_its_relatives_are_not(text: str, file: Path) -> None:
    """What looks alike and works is taken."""
    file.write_text(text)
    config.load(file, {})


@pytest.mark.parametrize("name", ["WEB__TOKEN", "FLEET__NAME", "BUFFER__KEY", "REDIS__URL", "WEB__PASSWORD_FILE"])
def test_bytes_in_a_variable_are_one_sentence(name: str) -> None:
    """A variable that is not UTF-8 is named; neither is it taken nor shown."""
    found = sentence(environment={f"PIPELINE_{name}": "hunter2\udcff"})
    assert f"PIPELINE_{name} is not UTF-8" in found
    assert "hunter2" not in found

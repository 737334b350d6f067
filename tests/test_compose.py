"""The compose file and the image, proved as far as that goes without a Docker engine.

What the containers run is run in test_servers.py: here the file's shape, references and variables are read.
"""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.base import config, measures

if TYPE_CHECKING:
    from pipeline.store.client import Store

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENV_EXAMPLE = (ROOT / ".env.example").read_text()
DOCKERFILE = (ROOT / "config/image/Dockerfile").read_text()
CLICKHOUSE_USERS = ROOT / "config/clickhouse/users.d/pipeline.xml"

services = pytest.mark.parametrize("name", SERVICES)


def interpolated(text: str) -> str:
    """As compose would pass it on, every password being "secret"."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", "secret", text).replace("$$", "$")


def mounts() -> Iterator[tuple[Path, str, str]]:
    """(file or directory of the project, where, "ro") of every bind mount."""
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                yield ROOT / source, target, *(mode or ["rw"])


@services
def test_service_has_no_more_rights_than_it_needs(name: str) -> None:
    """No service runs as root, gains privileges, or writes to the image; ports are this machine's alone."""
    service = SERVICES[name]
    user = service.get("user") or re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert int(user.split(":")[0]) > 0
    assert service["read_only"] is True
    assert "no-new-privileges:true" in service["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "privileged" not in service
    assert "network_mode" not in service


@services
def test_service_is_known_to_be_well(name: str) -> None:
    """Whatever stays up has a health check; a service that waits, waits for one or for an end."""
    service = SERVICES[name]
    is_task = service["restart"] == "no"
    if not is_task and "build" not in service:
        assert service["healthcheck"]["test"][0] == "CMD"
    if not is_task and "build" in service:
        assert "HEALTHCHECK" in DOCKERFILE
    for other, wanted in service.get("depends_on", {}).items():
        ends = SERVICES[other]["restart"] == "no"
        assert wanted == {"condition": "service_completed_successfully" if ends else "service_healthy"}


def test_what_lasts_lies_in_named_volumes() -> None:
    """Every volume is declared and used, and nothing of the project is mounted writable."""
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert {name for name in used if not name.startswith(".")} == set(COMPOSE["volumes"])
    assert all(mode == "ro" for _, _, mode in mounts())


def test_every_file_named_is_there() -> None:
    """Mounted files, the Dockerfile and what it copies exist, and .dockerignore lets them through."""
    assert [str(source) for source, _, _ in mounts() if not source.exists()] == []
    builds = [service["build"] for service in SERVICES.values() if "build" in service]
    assert builds
    assert all((ROOT / build["context"] / build["dockerfile"]).is_file() for build in builds)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed, source


def test_every_password_has_to_be_set() -> None:
    """The compose file's variables are those of .env.example; none has a default, there or here."""
    text = re.sub(r"^\s*#.*$", "", (ROOT / "docker-compose.yml").read_text(), flags=re.MULTILINE)
    asked = re.findall(r"(?<!\$)\$(?!\$)(.*)", text)
    required = [re.match(r"\{([A-Z_]+):\?set it in \.env\}", found) for found in asked]
    assert all(required), asked
    names = re.findall(r"^([A-Z_]+)=(.*)$", ENV_EXAMPLE, re.MULTILINE)
    assert {found[1] for found in required if found} == {name for name, _ in names}
    assert all(value == "" for _, value in names)


def test_passwords_can_be_drawn(tmp_path: Path) -> None:
    """The lines that .env.example offers fill every password with one of its own, fit for a URL."""
    lines = [line.removeprefix("#").strip() for line in ENV_EXAMPLE.splitlines() if line.startswith("#   ")]
    (tmp_path / ".env.example").write_text(ENV_EXAMPLE)
    subprocess.run(["sh", "-c", "\n".join(lines)], cwd=tmp_path, check=True)
    drawn = re.findall(r"^([A-Z_]+)=([0-9a-f]{48})$", (tmp_path / ".env").read_text(), re.MULTILINE)
    assert [name for name, _ in drawn] == re.findall(r"^([A-Z_]+)=$", ENV_EXAMPLE, re.MULTILINE)
    assert len({password for _, password in drawn}) == len(drawn)


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" in service])
def test_pipeline_starts_with_these_variables(name: str) -> None:
    """What the compose file and the image tell the pipeline are settings it knows, and reach the neighbours there."""
    image = dict(re.findall(r"(PIPELINE_\w+)=(\S+)", DOCKERFILE))
    environment = {key: interpolated(str(value)) for key, value in SERVICES[name]["environment"].items()}
    mounted = {target: source for source, target, _ in mounts()}
    file = mounted[environment.pop("PIPELINE_CONFIG")]
    settings = config.load(file, image | environment)
    assert settings.redis.url == "redis://:secret@redis:6379"
    assert re.fullmatch(r"http://(\w+):secret@clickhouse:8123", settings.clickhouse.dsn)
    user = settings.clickhouse.dsn.split(":")[1].removeprefix("//")
    assert user in {element.tag for element in ElementTree.parse(CLICKHOUSE_USERS).getroot().iterfind("users/*")}
    assert settings.alerts.rules_file in ("", *mounted)
    if name == "pipeline":
        assert str(settings.data_dir) in {volume.split(":")[1] for volume in SERVICES[name]["volumes"]}


# The image


@pytest.mark.parametrize(("lock", "roots"), [("requirements", "dependencies"), ("build", "build")])
def test_image_installs_what_the_project_asks_for_by_hash(lock: str, roots: str) -> None:
    """Every dependency is locked to a version in its range and to hashes; no place to get it from is named."""
    text = re.sub(r"^#.*\n", "", (ROOT / f"config/image/{lock}.lock").read_text(), flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = (
        [
            *project["project"]["dependencies"],
            *extras["service"],
            *(one for one in extras["notify"] if not one.startswith("metrics-pipeline")),
        ]
        if roots == "dependencies"
        else project["build-system"]["requires"]
    )
    locked = {}
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        requirement, *hashes = entry.replace("\\\n", "").split("--hash=")
        name, version = requirement.split(";")[0].strip().split("==")
        locked[canonicalize_name(name)] = version
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes), name
    for requirement in map(Requirement, wanted):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert not re.search(r"://|index-url|find-links", text)
    assert "--require-hashes" in DOCKERFILE
    assert f"config/image/{lock}.lock" in DOCKERFILE


# Grafana


def grafana_queries() -> Iterator[tuple[str, str]]:
    """(where it stands, SQL) of every query of every dashboard, with Grafana's own parts filled in."""
    for file in (ROOT / "config/grafana/dashboards").glob("*.json"):
        dashboard = json.loads(file.read_text())
        found = [(variable["name"], variable["query"]) for variable in dashboard["templating"]["list"]]
        targets = [(panel["title"], target) for panel in dashboard["panels"] for target in panel["targets"]]
        found += [(title, target["rawSql"]) for title, target in targets if "rawSql" in target]
        for name, sql in found:
            sql = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= toDateTime(0) AND \1 <= toDateTime(2000000000)", sql)
            sql = sql.replace("${__from:date:seconds}", "1767225600").replace("${__to:date:seconds}", "1767400000")
            yield f"{dashboard['title']}: {name}", re.sub(r"\$\{\w+:singlequote\}", "'staging', ''", sql)
    for rule in grafana_rules():
        for step in rule["data"]:
            if sql := step["model"].get("rawSql"):
                yield rule["title"], re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= toDateTime(0)", sql)


def grafana_rules() -> list[dict[str, Any]]:
    """Every alert rule that Grafana is provisioned with."""
    groups = yaml.safe_load((ROOT / "config/grafana/alerting/rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promql() -> Iterator[tuple[str, str]]:
    """(where it stands, expression) of every question to Prometheus, in dashboards and in alert rules."""
    for file in (ROOT / "config/grafana/dashboards").glob("*.json"):
        for panel in json.loads(file.read_text())["panels"]:
            yield from ((panel["title"], target["expr"]) for target in panel["targets"] if "expr" in target)
    for rule in grafana_rules():
        yield from ((rule["title"], step["model"]["expr"]) for step in rule["data"] if "expr" in step["model"])
    for group in yaml.safe_load((ROOT / "config/prometheus/rules.yml").read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


def test_prometheus_is_asked_for_metrics_that_are_told() -> None:
    """Every metric and label in an expression is one of the catalogue; a counter is asked for its rate or its sum."""
    told: dict[str, set[str]] = {measure.name: set(measure.labels) for measure in measures.READ}
    for family in measures.PROCESS.collect():
        kinds = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        labels = {"port", "method", "status", "stage", "endpoint", "outcome", "reason", "le"}
        told |= {family.name + ending: labels for ending in kinds}
    asked = dict(promql())
    assert len(asked) > 15
    for where, expression in asked.items():
        names = set(re.findall(r"pipeline_\w+", expression))
        assert names or expression == 'up{job="metrics-pipeline"} == 0', where
        assert names <= set(told), where
        grouped = {label.strip() for found in re.findall(r"by \(([^)]*)\)", expression) for label in found.split(",")}
        assert all(grouped <= told[name] for name in names), where
        assert expression.count("(") == expression.count(")"), where


def test_rules_of_grafana_and_prometheus_are_whole() -> None:
    """Each rule has a condition that is one of its steps, a wait, a severity and a sentence; identifiers are unique."""
    rules = grafana_rules()
    assert len({rule["uid"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["condition"] in {step["refId"] for step in rule["data"]}
        assert rule["labels"]["severity"]
        assert rule["annotations"]["summary"]
        sources = {step["datasourceUid"] for step in rule["data"]} - {"__expr__"}
        assert sources <= {"pipeline", "prometheus"}
    for group in yaml.safe_load((ROOT / "config/prometheus/rules.yml").read_text())["groups"]:
        assert all(rule["labels"]["severity"] and rule["annotations"]["summary"] for rule in group["rules"])


# Other ways to run it


def test_the_unit_is_hardened() -> None:
    """No root, no new privileges, nothing writable but its own directories, and a stop that waits long enough."""
    unit = (ROOT / "config/systemd/metrics-pipeline.service").read_text()
    said = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictNamespaces"):
        assert said[name] == "yes", name
    assert said["ProtectSystem"] == "strict"
    assert said["CapabilityBoundingSet"] == ""
    assert int(said["TimeoutStopSec"]) >= 10
    assert said["ExecStart"].endswith("/pipeline run")
    if shutil.which("systemd-analyze"):
        file = ROOT / "config/systemd/metrics-pipeline.service"
        checked = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
        wrong = [line for line in checked.stderr.splitlines() if "is not executable" not in line and file.name in line]
        assert wrong == []


def test_the_example_for_kubernetes() -> None:
    """Probes ask what they should: a restart only for loops that stand still; no user is root; settings are known."""
    documents = list(yaml.safe_load_all((ROOT / "config/kubernetes/pipeline.yaml").read_text()))
    kinds = {document["kind"]: document for document in documents}
    (container,) = kinds["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for kind in ("StatefulSet", "Job"):
        pod = kinds[kind]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        (one,) = pod["containers"]
        assert one["securityContext"]["readOnlyRootFilesystem"]
        assert not one["securityContext"]["allowPrivilegeEscalation"]
        given = {entry["name"]: entry.get("value", "http://u:p@host:8123") for entry in one["env"]}
        given = {name: value for name, value in given.items() if name not in ("PIPELINE_CONFIG", "PIPELINE_REDIS__URL")}
        config.load(ROOT / "config/pipeline.yaml", given)


def test_dashboards_ask_what_clickhouse_can_answer(store: "Store") -> None:
    """Every query of every dashboard runs on the migrated schema."""
    asked = dict(grafana_queries())
    assert asked
    for where, sql in asked.items():
        assert "$" not in sql, where
        store.query(sql)


def test_dashboards_use_the_provisioned_source() -> None:
    """Data source, user, database and password variable are those of ClickHouse and of the compose file."""
    source, prometheus = yaml.safe_load((ROOT / "config/grafana/datasources/sources.yaml").read_text())["datasources"]
    assert source["jsonData"]["username"] == "pipeline_analyst"
    assert source["jsonData"]["defaultDatabase"] == config.load(None, {}).clickhouse.database
    assert source["jsonData"]["host"] in SERVICES
    assert source["secureJsonData"]["password"].removeprefix("$") in SERVICES["grafana"]["environment"]
    for file in (ROOT / "config/grafana/dashboards").glob("*.json"):
        used = set(re.findall(r'"uid": "([^"]+)"', file.read_text())) - {json.loads(file.read_text())["uid"]}
        assert used <= {source["uid"], prometheus["uid"]}
    assert prometheus["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((ROOT / "config/grafana/dashboards/provider.yaml").read_text())["providers"]
    assert provider["options"]["path"] in {target for _, target, _ in mounts()}

"""What a monitor asks: is it alive, is it ready, and its metrics."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.base.keys import FleetKeys
from pipeline.base.measures import READ
from pipeline.web.health import missing, stuck
from pipeline.web.pulse import PipelineLook
from web.conftest import World

OpenSite = Callable[..., World]


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_alive_is_whether_loops_turn() -> None:
    """An idle or waiting loop turns; one that stood still for two minutes is named."""
    assert stuck({"drain a": 3.0, "schedule": 119.0}) == []
    assert stuck({"drain a": 3.0, "schedule": 121.0}) == ["the loop 'schedule' did not turn for 121 s"]


@pytest.mark.parametrize(
    ("look", "age_s", "lease", "expected"),
    [
        (PipelineLook(0, 1, {}), 1, True, []),
        (PipelineLook(0, 1, {}), 1, None, []),
        (PipelineLook(0, 0, {}), float("inf"), True, ["nothing is known yet"]),
        (PipelineLook(0, 1, {}), 31, True, ["the last status check was 31 s ago"]),
        (PipelineLook(0, 1, {}, redis_trouble="Redis: away"), 1, False, ["Redis: away"]),
        (PipelineLook(0, 1, {}, clickhouse_trouble="gone"), 1, True, ["ClickHouse: gone"]),
        (PipelineLook(0, 1, {}), 1, False, ["lease: no process holds the schedule"]),
    ],
)
def test_ready_names_what_is_missing(look: PipelineLook, age_s: float, lease: bool | None, expected: list[str]) -> None:
    """Redis, ClickHouse, the lease, or that nothing was seen for a while."""
    assert missing(look, age_s, lease) == expected


def test_health_on_a_real_site(open_site: OpenSite) -> None:
    """Alive at once; ready when a process holds the schedule."""
    world = open_site()
    assert (world.get("/healthz").status, world.get("/healthz").data) == (200, b"ok\n")
    until(lambda: world.get("/readyz").data == b"lease: no process holds the schedule\n")
    assert world.get("/readyz").status == 503
    world.buffer.client.set(FleetKeys("pipeline").scheduler, "another")
    assert world.get("/readyz").status == 200


def test_a_loop_that_hangs_is_told(open_site: OpenSite) -> None:
    """503, and which."""
    world = open_site(loops=lambda: {"drain metrics:buffer": 500.0})
    assert (world.get("/healthz").status, b"drain metrics:buffer" in world.get("/healthz").data) == (503, True)


def test_strangers_learn_yes_or_no_alone(open_site: OpenSite) -> None:
    """With credentials, health stays open, its reasons and everything else do not."""
    world = open_site(web={"token": "t0ken"}, loops=lambda: {"drain metrics:buffer": 500.0})
    assert world.get("/healthz").data == b"no\n"
    assert b"drain" in world.get("/healthz", Authorization="Bearer t0ken").data
    assert world.get("/metrics").status == 401
    assert world.get("/metrics", Authorization="Bearer t0ken").status == 200
    assert world.get("/metrics", Authorization="Bearer t0ken", Host="evil.example.org").status == 403


def test_metrics_by_prometheus_conventions(open_site: OpenSite) -> None:
    """Every name of the catalogue is told, and each keeps the rules that promtool checks."""
    world = open_site(
        jobs=lambda: {"rollup": {"turns": 3, "failures": 0, "missed": 1, "last_took_s": 0.1, "began_s_ago": 9.0,
                                 "interval_s": 5.0, "trouble": ""}},
        loops=lambda: {"schedule": 0.5},
    )  # fmt: skip
    until(lambda: b"pipeline_items_waiting 0.0" in world.get("/metrics").data)
    text = world.get("/metrics").data.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for measure in READ:
        assert measure.name.removesuffix("_total") in families
    for name, family in families.items():
        assert family.documentation, name
        assert re.fullmatch(r"pipeline_[a-z][a-z0-9_]*", name), name
        assert not re.search(r"_(count|sum|bucket|total|info)$", name), name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|kilobytes|mb|pct|percent|seconds_total)$", name), name
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples), name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert family.type not in name.split("_"), name
    assert 'pipeline_job_lag_seconds{job="rollup"} 4.0' in text
    if promtool := shutil.which("promtool"):
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_security_headers(open_site: OpenSite) -> None:
    """On every answer, refusals included: no inline script, no foreign host, no frame, no sniffing, no cache."""
    world = open_site(web={"token": "t0ken"})
    for path in ("/healthz", "/metrics", "/nowhere"):
        headers = world.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "server" not in headers
        assert not [name for name in headers if name.lower().startswith("access-control")]

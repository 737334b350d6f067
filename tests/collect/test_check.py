"""A live Redis held against the schema: what is wrong is found, named by pattern, with its fix."""

import json
import time
from collections.abc import Callable

import pytest
import redis
from click.testing import CliRunner
from conftest import RedisServer
from test_collector import seed

from pipeline.cli.main import cli
from pipeline.collect.catalogue import catalogue, shipped
from pipeline.collect.check import findings, server_findings, walk
from pipeline.collect.shapes import MOST_SHAPES, Shapes, shape
from pipeline.collect.sliding import Fingerprints, new_elements, pack, unpack


def found_in(server: RedisServer, database: str, number: int, most: int | None = None) -> dict[str, str]:
    with server.client(number) as client:
        counted = walk(client, [database], catalogue(), lambda key: False, most=most, now_s=time.time())
    return {one.pattern: one.what for one in findings(catalogue(), counted)}


def test_the_documents_examples_are_as_the_document_says(redis_server: Callable[..., RedisServer]) -> None:
    """Seeded literally, what is found is what the examples lack: TTLs that stand in a command of their own."""
    server = redis_server()
    seed(server)
    assert found_in(server, "coordination", 1) == {"test:running:{test_id}": "never expires"}
    assert set(found_in(server, "results", 2)) == {"test:result:{execution_id}", "system:metrics:{node}"}


def test_each_kind_of_fault_is_found(redis_server: Callable[..., RedisServer]) -> None:
    """A wrong type, a missing TTL, one too long, a list too long, unknown keys."""
    server = redis_server()
    with server.client(2) as client:
        client.set("system:metrics:n", "x", ex=100)
        client.hset("test:result:1", "status", "passed")
        client.hset("test:result:2", "status", "passed")
        client.expire("test:result:2", 999_999)
        client.rpush("api:response_times:e", *range(1001))
        for number in range(30):
            client.set(f"mystery:{number}:x", "y" * 100)
    found = found_in(server, "results", 2)
    assert found["system:metrics:{node}"] == "is not a hash"
    assert found["api:response_times:{endpoint}"] == "is longer than 1000"
    assert found["test:result:{execution_id}"] in ("never expires", "expires later than the document says (86400 s)")
    assert found["mystery:*:x"].startswith("is not in the schema (")


def test_keys_of_secret_entries_are_not_shown(redis_server: Callable[..., RedisServer]) -> None:
    """A session's key is a secret: the pattern stands for it."""
    server = redis_server()
    with server.client(0) as client:
        client.set("session:test:very-secret", "{}")
        counted = walk(client, ["sessions"], catalogue(), lambda key: False, now_s=time.time())
    (one,) = findings(catalogue(), counted)
    assert one.keys == ("session:test:{session_id}",)


def test_what_the_user_may_not_read_is_said_not_taken_for_well(redis_server: Callable[..., RedisServer]) -> None:
    """Keys without a right to them, and commands without a right to send them, are findings with the right to give."""
    server = redis_server()
    with server.client(2) as client:
        for number in range(3):
            client.hset(f"test:result:{number}", "status", "passed")
        client.rpush("api:response_times:e", *range(1001))
        client.set("foreign", "x")
        client.execute_command(
            "ACL", "SETUSER", "narrow", "on", ">pw", "~api:response_times:*", "+@all", "-pttl", "-llen", "-memory"
        )
        with redis.Redis(host="127.0.0.1", port=server.port, db=2, username="narrow", password="pw") as narrow:
            counted = walk(narrow, ["results"], catalogue(), lambda key: False, now_s=time.time())
        client.execute_command("ACL", "DELUSER", "narrow")
    found = {one.pattern: (one.severity, one.count, one.fix) for one in findings(catalogue(), counted)}
    assert found["test:result:{execution_id}"] == (
        "warn", 3, "give the user %R~test:result:* in its ACL (~test:result:* before Redis 7)"
    )  # fmt: skip
    assert found["keys of no pattern"][:2] == ("warn", 1)
    assert found["PTTL"] == ("warn", 1, "give the user +pttl in its ACL")
    assert found["LLEN"] == ("warn", 1, "give the user +llen in its ACL")
    assert found["MEMORY USAGE"] == ("warn", 1, "give the user +memory|usage in its ACL")
    assert len(found) == 5


def test_a_sample_ends_early(redis_server: Callable[..., RedisServer]) -> None:
    """``--sample`` looks at so many keys of a database and says that it did."""
    server = redis_server()
    with server.client(2) as client:
        client.mset({f"mystery:{number}": 1 for number in range(5000)})
        counted = walk(client, ["results"], catalogue(), lambda key: False, most=1000, now_s=0)
    assert counted.sampled
    assert counted.keys == 1000


def test_eviction_and_persistence_are_looked_at() -> None:
    """What the document sets (allkeys-lru) evicts the buffer."""
    found = server_findings({}, {"maxmemory-policy": "allkeys-lru", "appendonly": "no", "appendfsync": "no"})
    assert [(one.severity, one.pattern) for one in found] == [
        ("bad", "maxmemory-policy"), ("bad", "appendonly"), ("warn", "appendfsync"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a:12:b34", "a:*:b*"),
        ("x:deadbeef01:y", "x:*:y"),
        ("plain", "plain"),
        ("auth-001:step_2.png", "auth-*:step_*.png"),
        ("{orders}:größe", "{orders}:größe"),
        ("sesion:tok9Az8bQ", "sesion:*"),
        ("reset:alice@example.com:code", "reset:*:code"),
        ("blob:QWxh+GRp=", "blob:*"),
    ],
)
def test_keys_are_grouped_by_shape(key: str, expected: str) -> None:
    """Numbers and identifiers do not tell keys apart; a lone token or address under an unknown name is not shown."""
    assert shape(key) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["cart:alice", "cart:bob"], {"cart:*": 2}),
        (["plain", "other"], {"plain": 1, "other": 1}),
        ([f"app:{kind}:{n}" for kind in ("user", "order") for n in range(30)], {"app:user:*": 30, "app:order:*": 30}),
        ([f"user:{who}:{what}" for who in ("al", "bo") for what in ("cart", "seen")], {"user:*:*": 4}),
    ],
)
def test_parts_of_names_that_vary_become_one(keys: list[str], expected: dict[str, int]) -> None:
    """Names with a common beginning are one group; a part that many keys have is a word of its own."""
    shapes = Shapes()
    for key in keys:
        shapes.add(key, 10)
    assert {name: group.keys for name, group in shapes.groups(20).items()} == expected


@pytest.mark.parametrize("separator", ["", ":", "_", "mixed"])
def test_names_without_end_take_bounded_memory(separator: str) -> None:
    """Of more different names than are held, no key and no byte is lost, and the answer is short."""
    shapes, letters = Shapes(), str.maketrans("0123456789", "ghijklmnop")
    for number in range(MOST_SHAPES * 2):
        between = ":/|_-."[number % 6] if separator == "mixed" else separator
        shapes.add(f"{hash((number, 1)) % 10**9}{between}x{number * 7}".translate(letters), 3)
    assert shapes.folded
    groups = shapes.groups(20)
    assert len(groups) <= 20
    assert sum(group.keys for group in groups.values()) == MOST_SHAPES * 2
    assert sum(group.bytes for group in groups.values()) == MOST_SHAPES * 6


def test_unknown_keys_make_a_short_answer_that_prints(
    redis_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 unknown names: a few lines with their share of memory; secret, binary and hostile names print
    safely; one database for all of the document's names is gone through once."""
    server = redis_server()
    letters = str.maketrans("0123456789", "ghijklmnop")
    with server.client(0) as client:
        names = [f"{number * 7919}".translate(letters) for number in range(10_000)]
        client.mset({f"cart:{name}" if place % 2 else name: "x" * 50 for place, name in enumerate(names)})
        client.mset({b"\xff\xfe:a": 1, "bell:\x1b[31m": 1, "[bold]:x": 1, "metrics:buffer:x": 1})
        client.set("perf:a:b", "of a wrong type")
    with server.client(5) as client:
        client.set("pwd:reset:planted-token", "{}")
    run = CliRunner().invoke
    monkeypatch.setenv("PIPELINE_REDIS__URL", server.url)
    text = run(cli, ["schema", "check"])
    assert text.exit_code in (0, 1), text.output
    assert "planted-token" not in text.stdout
    assert "\x1b" not in text.stdout
    for database in ("coordination", "results", "metrics", "ai", "notifications", "environment", "temporary"):
        monkeypatch.setenv(f"PIPELINE_REDIS__DATABASES__{database.upper()}", "0")
    checked = json.loads(run(cli, ["schema", "check", "--json"]).stdout)
    assert checked["keys"] == 10_005
    found = {one["pattern"]: one for one in checked["findings"]}
    assert found["cart:*"]["count"] == 5_000
    assert found["*"]["count"] == 5_000
    assert found["cart:*"]["fix"] == "document it (collect.keys), or delete it"
    assert found["perf:{test_id}:{page}"]["what"] == "is not a hash"
    assert len(found) < 25


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((), (1, 2), (2, False)),
        ((1, 2, 3), (1, 2, 3), (0, False)),
        ((1, 2, 3, 4), (9, 1, 2, 3), (1, False)),
        ((1, 1, 1, 1), (1, 1, 1, 1, 1), (0, False)),
        ((1, 2, 3, 4), (9, 8, 7, 6), (4, True)),
        ((1, 2, 3, 4), (), (0, False)),
        ((1,), (2, 1), (1, False)),
    ],
)
def test_the_smallest_shift_that_fits_counts(
    before: Fingerprints, now: Fingerprints, expected: tuple[int, bool]
) -> None:
    """New elements stand at the head; equal ones that could be old are taken for old."""
    assert new_elements(before, now) == expected
    assert unpack(pack(before)) == before


# The commands


def test_schema_commands(redis_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """List, show by a key, check with exit code 1, scripts listed, printed and loaded; each as JSON too."""
    server = redis_server()
    seed(server)
    monkeypatch.setenv("PIPELINE_REDIS__URL", server.url)
    run = CliRunner().invoke
    listed = json.loads(run(cli, ["schema", "--json"]).stdout)["entries"]
    assert [one["pattern"] for one in listed] == [entry.pattern for entry in shipped()]
    assert "perf:{test_id}:{page}" in run(cli, ["schema"]).stdout
    shown = json.loads(run(cli, ["schema", "show", "perf:auth-001:login", "--json"]).stdout)["entries"]
    assert [one["name"] for one in shown] == ["page_performance"]
    checked = run(cli, ["schema", "check", "--json"])
    assert checked.exit_code == 1
    assert json.loads(checked.stdout)["keys"] > 50
    assert "LPUSH" not in run(cli, ["schema", "scripts"]).stdout
    assert run(cli, ["schema", "scripts", "lock"]).stdout.startswith("-- Takes a lock")
    loaded = json.loads(run(cli, ["schema", "scripts", "--load", "--json"]).stdout)["scripts"]
    with server.client() as client:
        assert client.script_exists(*[one["sha1"] for one in loaded]) == [True] * len(loaded)

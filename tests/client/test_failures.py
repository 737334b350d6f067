import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client.failures import LONGEST_MESSAGE, LONGEST_TYPE, bounded, failure

MESSAGES = [
    ("ValueError: no 3 of 17", "", "ValueError", "no <n> of <n>"),
    ("assert 0 == 1\n +  where", "", "AssertionError", "assert <n> == <n>"),
    ("requests.exceptions.Timeout: after 3.5s", "", "requests.exceptions.Timeout", "after <n>s"),
    (
        "\x1b[31mTimeoutError\x1b[39m: goto: Timeout 30000ms",
        "",
        "TimeoutError",
        "goto: Timeout <n>ms",
    ),
    ("Error: expect(received).toBe(expected)", "", "Error", "expect(received).toBe(expected)"),
    ("connect to http://user:secret@h:80/x?token=1 failed", "", "", "connect to <url> failed"),
    ("cannot open /home/ci/build/a.txt:12", "", "", "cannot open <path>"),
    ("object at 0x7f3a2c of 550e8400-e29b-41d4-a716-446655440000", "", "", "object at <address> of <uuid>"),
    ("10.0.0.7:5432 refused", "", "", "<address> refused"),
    ("expected true", "org.junit.ComparisonFailure", "org.junit.ComparisonFailure", "expected true"),
    ("org.x.FooException: bar", "org.x.FooException", "org.x.FooException", "bar"),
    ("", "", "", ""),
]


@pytest.mark.parametrize(("text", "named", "error_type", "message"), MESSAGES, ids=range(len(MESSAGES)))
def test_type_and_first_line(text: str, named: str, error_type: str, message: str) -> None:
    """The type by its name or by its ending; the line without what differs from run to run."""
    found = failure(text, named)
    assert (found.error_type, found.message) == (error_type, message)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("cannot open '/home/john doe/proj/x.txt'", "cannot open '/home/runner/proj/x.txt'"),
        ("cannot open /home/john doe/x.txt", "cannot open /home/runner/x.txt"),
        ("cannot open C:\\Users\\Jane Doe\\x.log", "cannot open C:\\Users\\bob\\AppData\\x.log"),
        ("cannot open 'C:\\\\Users\\\\Jane Doe\\\\x'", "cannot open 'D:\\\\a\\\\x'"),
        ("~/a/b denied", "~/c denied"),
        ("commit a1b2c3d not found", "commit f9e8d7c6 not found"),
        ("user user_8f3kq2 missing", "user user_zz91qa missing"),
        ("id 01ARZ3NDEKTSV4RRFFQ69G5FAV", "id 01BX5ZZKBKACTAV9WEVGEMMVRZ"),
        ("took 1.5e-05 s", "took 2.5 s"),
        ("took 10m30s", "took 9m5s"),
        ("::1:8080 refused", "fe80::1ff:fe23:4567:890a refused"),
        (
            "session eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.abcDEF expired",
            "session eyJhbGciOiJIUzI1NiJ9.eyJzdWIj.xyzDEF expired",
        ),
    ],
    ids=range(12),
)
def test_what_differs_by_chance_does_not_count(one: str, two: str) -> None:
    """Users' names, hashes, identifiers and measures."""
    assert failure(one).message == failure(two).message != failure("other").message


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("login failed password=hunter2 token: ghp_abcdefABCDEF", "login failed password=<secret> token: <secret>"),
        ("{'Authorization': 'Bearer sk-live-abc', 'x': 1}", "{'Authorization': 'Bearer <secret>', 'x': <n>}"),
        ("Authorization: Basic dXNlcjpwYXNz refused", "Authorization: <secret> refused"),
        ("DB_PASSWORD='a b' set", "DB_PASSWORD=<secret> set"),
        ("key AKIAIOSFODNN7EXAMPLE of glpat-abc is bad", "key <secret> of <secret> is bad"),
        ("Unexpected token: }", "Unexpected token: }"),
        ("Bearer token missing", "Bearer token missing"),
        ("expected '/login', not '/cart' in std::map a::b", "expected '/login', not '/cart' in std::map a::b"),
        ("copy /a/b to C:\\a\\b not", "copy <path> to <path> not"),
    ],
    ids=range(9),
)
def test_secrets_do_not_travel_and_words_do(told: str, message: str) -> None:
    """What is named as a secret, and what looks like a known kind of token; nothing that only resembles one."""
    assert failure(told).message == message


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    """Paths, numbers and addresses do not count, words do."""
    one = failure("OSError: cannot open /tmp/a1/f.txt after 3 tries")
    two = failure("OSError: cannot open /home/x/f.txt after 12 tries")
    assert (
        one.fingerprint == two.fingerprint != failure("OSError: cannot close /tmp/a1/f.txt after 3 tries").fingerprint
    )


@given(st.text(max_size=3000), st.text(max_size=300))
def test_whatever_was_said_is_bounded_and_can_be_sent(text: str, named: str) -> None:
    """No control characters, no halves of characters, no more than the limits."""
    found = failure(text, named)
    for part, longest in ((found.error_type, LONGEST_TYPE), (found.message, LONGEST_MESSAGE)):
        assert len(part) <= longest
        assert "\x1b" not in part and "\n" not in part
        part.encode()
    assert len(found.fingerprint) == 12


def test_two_long_names_stay_two() -> None:
    """What is cut off leaves its digest."""
    one, two = bounded("x" * 5000 + "a"), bounded("x" * 5000 + "b")
    assert len(one) == len(two) == 512
    assert one != two
    assert bounded("\udce9x") == "\ufffdx"

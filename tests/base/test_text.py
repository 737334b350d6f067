"""Text on its way to people: what a terminal must not see, and what no reader must see."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base import text
from pipeline.base.text import masked, masked_url, printable


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("plain text, ünïcode, 日本語 and 😀", "plain text, ünïcode, 日本語 and 😀"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("nul\0 del\x7f csi\x9b2J", r"nul\x00 del\x7f csi\x9b2J"),
        ("two\nlines\ttab\r", r"two\nlines\ttab\r"),
        ("right\u202eto left\u2066", r"right\u202eto left\u2066"),
        ("line\u2028separator\u200bzero width", r"line\u2028separator\u200bzero width"),
        ("half \ud83d emoji", r"half \ud83d emoji"),
        (b"not \xff UTF-8", r"not \xff UTF-8"),
        (b"\xc3\xa9", "é"),
    ],
)
def test_printable(given_text: str | bytes, shown: str) -> None:
    """Every character that is not printable becomes its escape; everything else stays as it is."""
    assert printable(given_text) == shown


def test_printable_may_keep_lines() -> None:
    """A text of several lines keeps its newlines where the caller says so, and nothing else."""
    assert printable("a\x1b\nb\r\n", keep_lines=True) == "a\\x1b\nb\\r\n"


@given(st.text(alphabet=st.characters(), max_size=30))
def test_whatever_comes_out_is_printable(any_text: str) -> None:
    """No text of any kind leaves a character that a terminal would obey."""
    assert printable(any_text).isprintable()
    assert printable(printable(any_text)) == printable(any_text)


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("redis://h:6379/3", "redis://h:6379/3"),
        ("redis://user:secret@h:6379/3", "redis://user:***@h:6379/3"),
        ("redis://:sec:ret@h", "redis://:***@h"),
        ("redis://:sec%2Fret@h", "redis://:***@h"),
        ("redis://:sec/ret@h:6379", "redis://…"),
        ("redis://:sec@ret@h:6379", "redis://…"),
        ("redis://:sec#ret@h:6379", "redis://…"),
        ("redis://:sec ret@h:6379", "redis://…"),
        ("redis://:sec?ret@h:6379", "redis://…"),
        ("redis://:secret:6379", "redis://…"),
        ("redis://[::1", "redis://…"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis://h1:1,h2:2", "redis://…"),
        ("rediss://h:6379/3?password=secret", "rediss://h:6379/3?…"),
        ("rediss://h:6379/3?password=sec@ret", "rediss://…"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock?…"),
        ("unix://user:secret@/run/redis.sock", "unix://…"),
        ("https://user:secret@h:8443/db?query=1", "https://user:***@h:8443/…?…"),
        ("https://hooks.example.com/services/T0/SECRET", "https://hooks.example.com/…"),
        ("slack://SECRET/SECRET/SECRET", "slack://…"),
        ("mailtos://user:secret@example.com", "mailtos://…"),
        ("chdb:///var/lib/pipeline", "chdb:///var/lib/pipeline"),
    ],
)
def test_masked_url(given_text: str, shown: str) -> None:
    """Scheme, host and port are shown where they cannot be part of a password; everything else is hidden."""
    assert masked_url(given_text) == shown
    assert masked(given_text) == shown
    assert masked(f"cannot reach '{given_text}'").startswith(f"cannot reach '{shown}")


@pytest.mark.parametrize("url", ["", "embedded", "user:secret@h:6379", ":secret@h", "http:/secret", "1://secret"])
def test_text_that_is_no_url_is_hidden(url: str) -> None:
    """What should be a URL and is none is hidden as a whole: it may be the password alone."""
    assert masked_url(url) == "***"


def test_masked_sentence() -> None:
    """In a sentence the words around URLs stay, also with several of them and with addresses of people."""
    assert masked("lost redis://u:p@a:1, then http://u:p@b:2.") == "lost redis://u:***@a:1, then http://u:***@b:2."
    assert masked("login u:secret@h:1 failed at 12:30") == "login ***@h:1 failed at 12:30"
    assert masked("mail to bob@example.com at 12:30") == "mail to bob@example.com at 12:30"
    assert masked("a key such as metrics:buffer") == "a key such as metrics:buffer"


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_secrets", set())
    text.remember_secret("sw/ord f%ish")


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("form", ["sw/ord f%ish", "sw%2Ford%20f%25ish", "sw/ord%20f%25ish", "sw%2Ford+f%25ish"])
def test_remembered_secret_is_hidden_everywhere(form: str) -> None:
    """A password that was remembered is hidden in any text, plain and percent-encoded."""
    assert masked(f"Port could not be cast to integer value as '{form}'") == (
        "Port could not be cast to integer value as '***'"
    )


secret_texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=20)


@given(
    st.sampled_from(["redis://:{}@h:6379/3", "https://user:{}@h", "smtp://{}:x@h", "tok://{}", "rediss://h/?p={}"]),
    secret_texts,
    st.sampled_from(["{}", "cannot connect to {}", "'{}' is no URL, choose another", '{{"url": "{}"}}', "a {} b {}"]),
)
def test_no_four_characters_of_a_password_are_shown(template: str, secret: str, sentence: str) -> None:
    """Whatever a password holds and wherever its URL stands in a sentence, no part of it is shown."""
    url = template.format(secret)
    frame = re.sub(r"\{\}", "", template) + sentence
    for shown in (masked(sentence.replace("{}", url)), masked_url(url)):
        for start in range(len(secret) - 3):
            piece = secret[start : start + 4]
            assert piece not in shown or piece in frame or piece in masked(frame), (url, shown)
    assert masked(masked(url)) == masked(url)


@pytest.mark.parametrize(
    ("wrapped", "plain"),
    [
        (
            "ClickHouse: ('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
            "ClickHouse: Connection reset by peer",
        ),
        (
            "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
            "Remote end closed connection without response",
        ),
        (
            "Error while reading from h:6379 : (104, 'Connection reset by peer')",
            "Error while reading from h:6379: Connection reset by peer",
        ),
        ("Error 111 connecting to h:6379. Connection refused.", "Error connecting to h:6379. Connection refused."),
        ("[Errno 111] Connection refused", "Connection refused"),
        ("(1, 2) stays, and so does f('a', 'b')", "(1, 2) stays, and so does f('a', 'b')"),
    ],
)
def test_errors_of_libraries_are_unwrapped(wrapped: str, plain: str) -> None:
    """What people read is the reason, not how Python prints the exception around it."""
    assert text.without_wrapping(wrapped) == plain

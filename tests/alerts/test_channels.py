"""Channels: what they are sent, over real sockets; threads that delay no other."""

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
import redis

from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal
from pipeline.alerts.journal.silences import Silences
from pipeline.alerts.notify import channels, dispatch, wording
from pipeline.alerts.notify.channels import Channel, Undelivered, parse_channels
from pipeline.alerts.notify.deliveries import Deliveries
from pipeline.alerts.notify.dispatch import plan
from pipeline.alerts.notify.notify import BACKOFF, ChannelWorker, Notifier
from pipeline.base.clock import ManualClock, WallClock
from pipeline.base.errors import ConfigError

from .test_dispatch import note
from .test_evaluator import SLOW, at, evaluator, source

KEYS = AlertKeys("metrics:buffer")
ALERT = {
    "type": "slow",
    "test": "login",
    "state": "firing",
    "severity": "critical",
    "rule": "slow",
    "message": "login <takes> 5 s & more",
    "link": "https://page/alerts/1",
    "transition_id": "t1",
}
BODY = {"channel": "c", "state": "firing", "group": {"rule": "slow"}, "firing": 1, "resolved": 0, "alerts": [ALERT]}


@contextmanager
def http(answer: int = 204, delay_s: float = 0.0) -> Iterator[tuple[str, list[Any]]]:
    """A receiver that answers with a status, after a while."""
    received: list[Any] = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((dict(self.headers), json.loads(body)))
            ended.wait(delay_s)
            self.send_response(answer)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", received
        finally:
            ended.set()
            server.shutdown()
            thread.join()


@contextmanager
def smtp(refuse: str = "") -> Iterator[tuple[str, list[str]]]:
    """A mail server that keeps what it is given."""
    mails: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                verb = line.split()[0].upper().decode() if line.split() else ""
                if verb == refuse:
                    self.wfile.write(b"550 no\r\n")
                elif verb == "DATA":
                    self.wfile.write(b"354 go on\r\n")
                    text = b""
                    while not text.endswith(b"\r\n.\r\n"):
                        text += self.rfile.readline()
                    mails.append(text.decode())
                    self.wfile.write(b"250 kept\r\n")
                elif verb == "QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    self.wfile.write(b"250 fine\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{server.server_address[1]}", mails
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_gets_the_notification_and_its_key() -> None:
    """JSON with the alerts' payloads unchanged, the key in body and header, further headers as configured."""
    with http() as (url, received):
        channels.send(Channel(name="c", kind="webhook", url=url, headers={"Authorization": "Bearer x"}), BODY, "k1")
    ((headers, body),) = received
    assert body == {"key": "k1", **BODY}
    assert (headers["Idempotency-Key"], headers["Authorization"]) == ("k1", "Bearer x")
    assert headers["Content-Type"] == "application/json"


def test_slack_gets_text_and_coloured_attachments() -> None:
    """What Slack and its kin show: a headline, one attachment per alert with its link; special characters escaped."""
    with http(200) as (url, received):
        channels.send(Channel(name="c", kind="slack", url=url), BODY, "k1")
    ((_, body),) = received
    assert body["text"] == "[FIRING] slow: 1 firing"
    (attachment,) = body["attachments"]
    assert attachment["text"] == "login &lt;takes&gt; 5 s &amp; more"
    assert (attachment["title_link"], attachment["color"]) == ("https://page/alerts/1", "#c62828")


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 429, 500, 503])
def test_anything_but_success_is_undelivered(status: int) -> None:
    """Refusals, outages and redirects (which would lose the body) all mean: send again."""
    with http(status) as (url, _), pytest.raises(Undelivered, match=f"c: HTTP status {status}"):
        channels.send(Channel(name="c", kind="webhook", url=url), BODY, "k1")


def test_nobody_there_and_no_answer_are_undelivered() -> None:
    """A closed port and a receiver that does not answer in time."""
    with pytest.raises(Undelivered, match="refused"):
        channels.send(Channel(name="c", kind="webhook", url="http://127.0.0.1:9/"), BODY, "k1")
    with http(delay_s=5) as (url, _), pytest.raises(Undelivered, match=r"within 0\.05 s|timed out"):
        channels.send(Channel(name="c", kind="webhook", url=url, timeout="50ms"), BODY, "k1")


def test_a_mail_has_a_stable_message_id() -> None:
    """Subject, recipients, text for people and the whole notification; the key is the Message-ID."""
    with smtp() as (url, mails):
        channel = Channel(
            name="c", kind="email", url=url, sender="pipeline@example.org", to=["a@example.org", "b@example.org"]
        )
        channels.send(channel, BODY, "k1")
    mail = message_from_string(mails[0])
    assert mail["Subject"] == "[FIRING] slow: 1 firing"
    assert mail["To"] == "a@example.org, b@example.org"
    assert mail["Message-ID"] == "<k1@example.org>"
    text = mail.get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert text.startswith("login <takes> 5 s & more https://page/alerts/1")


def test_a_refused_mail_is_undelivered_and_a_password_never_goes_in_the_clear() -> None:
    """A mail server that says no; one that offers no encryption for a login."""
    given: dict[str, Any] = {"name": "c", "kind": "email", "sender": "p@x.org", "to": ["a@x.org"]}
    with smtp(refuse="RCPT") as (url, mails), pytest.raises(Undelivered):
        channels.send(Channel(url=url, **given), BODY, "k1")
    with smtp() as (url, mails), pytest.raises(Undelivered, match="offers no encryption"):
        channels.send(Channel(url=url, user="u", password="secret", **given), BODY, "k1")
    assert mails == []
    assert "secret" not in repr(Channel(url=url, user="u", password="secret", **given))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_apprise_takes_everything_else() -> None:
    """A channel of kind apprise is handed to that library; here its own JSON service."""
    pytest.importorskip("apprise")
    with http(200) as (url, received):
        channels.send(Channel(name="c", kind="apprise", url=url.replace("http://", "json://")), BODY, "k1")
    ((_, body),) = received
    assert body["title"] == "[FIRING] slow: 1 firing"
    with pytest.raises(Undelivered, match="does not know"):
        channels.send(Channel(name="c", kind="apprise", url="nosuchservice://x"), BODY, "k1")


HOOK = {"name": "hook", "kind": "webhook", "url": "http://x/"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{**HOOK, "grop_by": []}], "unknown setting 'alerts.channels.hook.grop_by'; did you mean 'group_by'?"),
        ([{**HOOK, "kind": "pager"}], "'alerts.channels.hook.kind': Input should be 'webhook', 'slack', 'email' or"),
        ([{**HOOK, "url": "ftp://x"}], "the scheme of url must be http or https"),
        ([{**HOOK, "kind": "email", "url": "smtp://x"}], "an email channel needs 'sender' and 'to'"),
        ([{**HOOK, "only": ["severity"]}], "'severity' is no matcher"),
        ([{**HOOK, "mute": ["Someday"]}], "'Someday' is no time of the week"),
        ([{**HOOK, "group_wait": "soon"}], "'alerts.channels.hook.group_wait': 'soon' is not a duration"),
        ([{**HOOK, "group_interval": 0}], "group_interval must be longer than 0"),
        ([HOOK, HOOK], "two channels are named 'hook'"),
        ([{"kind": "webhook", "url": "http://x/"}], "'alerts.channels.0.name': Field required"),
    ],
)
def test_a_channel_that_makes_no_sense_stops_the_start(given: list[dict[str, Any]], said: str) -> None:
    """The sentence names the channel, the key and what would be right."""
    with pytest.raises(ConfigError) as error:
        parse_channels(given)
    assert said in str(error.value)


# Workers


def worker(client: redis.Redis, name: str, send: Any, **fields: Any) -> ChannelWorker:
    """A worker whose clock stands still."""
    given = {"kind": "webhook", "group_wait": 0, "group_interval": "1m", **fields}
    channel = Channel(name=name, url="http://x/", **given)
    return ChannelWorker(channel, Deliveries(client, KEYS, name), Silences(client, KEYS), ManualClock(0), send)


def breach(client: redis.Redis, *names: str) -> Journal:
    """A journal with channels, into which one alert has been committed at minute 2."""
    journal = Journal(client, KEYS, names)
    judge = evaluator(journal, source({"a": [60, 60]}))
    judge.run(at(1), {})
    judge.run(at(2), {})
    return journal


def test_a_channel_is_told_once_and_each_channel_for_itself(client: redis.Redis) -> None:
    """What one channel refuses another one gets; what has arrived is not sent again."""
    breach(client, "good", "bad")
    sent: list[str] = []

    def send(channel: Channel, body: wording.Body, key: str) -> None:
        sent.append(f"{channel.name} {key}")
        if channel.name == "bad":
            raise Undelivered("bad: no")

    good, bad = worker(client, "good", send), worker(client, "bad", send)
    for _ in range(3):
        good.turn(at(2))
        bad.turn(at(2))
    assert [one.split()[0] for one in sent] == ["good", "bad"]
    assert (good.figures.sent, bad.figures.failed, bad.figures.last_error) == (1, 1, "bad: no")


def test_nothing_is_sent_before_it_is_frozen(client: redis.Redis) -> None:
    """While a notification is being sent it stands in Redis as it is sent; afterwards it does not."""
    breach(client, "c")
    deliveries = Deliveries(client, KEYS, "c")
    frozen: list[Any] = []

    def send(_: Channel, body: wording.Body, key: str) -> None:
        (update,) = deliveries.in_flight().values()
        frozen.append((update.body, update.key) == (body, key))

    worker(client, "c", send).turn(at(2))
    assert (frozen, deliveries.in_flight()) == ([True], {})


def test_pauses_grow_up_to_five_minutes(client: redis.Redis) -> None:
    """A dead channel is tried again after pauses that double from a second to five minutes, under one key."""
    breach(client, "dead")
    tries: list[tuple[int, str]] = []
    now_ms = at(2)

    def send(_: Channel, __: wording.Body, key: str) -> None:
        tries.append((now_ms, key))
        raise Undelivered("dead")

    dead = worker(client, "dead", send)
    for _ in range(1500):
        dead.turn(now_ms)
        now_ms += 1000
    pauses = [later - earlier for (earlier, _), (later, _) in pairwise(tries)]
    assert all(0.7 * 2**i * 1000 - 1 <= pause <= 2**i * 1000 + 1000 for i, pause in enumerate(pauses[:8]))
    assert max(pauses) <= BACKOFF.max_s * 1000 + 1000
    assert len({key for _, key in tries}) == 1


def test_a_channel_hears_only_what_concerns_it(client: redis.Redis) -> None:
    """``only`` keeps other alerts away, and they do not pile up."""
    breach(client, "c")
    sent: list[Any] = []
    worker(client, "c", lambda *given: sent.append(given), only=["severity=critical"]).turn(at(2))
    assert (sent, client.hlen(KEYS.pending("c"))) == ([], 0)


def test_a_mute_time_holds_back_a_whole_channel(client: redis.Redis) -> None:
    """Nothing is sent in the mute time; what still fires after it is told then."""
    breach(client, "c")
    sent: list[Any] = []
    # 2050-01-01 is a Saturday.
    muted = worker(client, "c", lambda *given: sent.append(given), mute=["Sat 00:00-01:00"])
    muted.turn(at(2))
    assert sent == []
    muted.turn(at(61))
    assert len(sent) == 1


def test_what_was_frozen_before_a_crash_is_sent_as_it_was(client: redis.Redis) -> None:
    """A notification frozen by a process that died is sent by the next one, same key, before anything newer."""
    breach(client, "c")
    deliveries = Deliveries(client, KEYS, "c")
    (update,) = plan("c", worker(client, "c", None).channel.policy, deliveries.pending(), {}, at(2)).updates
    assert deliveries.freeze(update)
    assert not deliveries.freeze(update)
    sent: list[Any] = []
    restarted = worker(client, "c", lambda _, body, key: sent.append((body, key)))
    restarted.turn(at(3))
    assert sent == [(update.body, update.key)]
    assert (deliveries.pending(), deliveries.in_flight()) == ([], {})
    assert [*deliveries.told()[update.group_key].firing]


def test_settling_twice_changes_nothing(client: redis.Redis) -> None:
    """Of two processes that deliver the same notification the second finds it settled."""
    deliveries = Deliveries(client, KEYS, "c")
    client.hset(KEYS.pending("c"), "a firing 0", json.dumps(vars(note("a", "firing", 0))))
    policy = dispatch.Policy(("alertname",), 0, 1000, 1000)
    (first,) = plan("c", policy, deliveries.pending(), {}, 0).updates
    deliveries.freeze(first)
    deliveries.settle(first, first.after)
    client.hset(KEYS.pending("c"), "a resolved 5000", json.dumps(vars(note("a", "resolved", 5000))))
    (second,) = plan("c", policy, deliveries.pending(), deliveries.told(), 6000).updates
    deliveries.freeze(second)
    deliveries.settle(second, second.after)
    deliveries.settle(first, first.after)  # late
    assert deliveries.told() == {}


def test_a_hanging_channel_delays_no_other_and_no_evaluation(client: redis.Redis) -> None:
    """While one receiver does not answer, the other is told and rules are judged."""
    with http(delay_s=30) as (slow_url, slow_received), http() as (url, received):
        workers = [
            ChannelWorker(
                Channel(name=name, kind="webhook", url=to, group_wait=0, timeout="20s"),
                Deliveries(client, KEYS, name), Silences(client, KEYS), WallClock(),
            )
            for name, to in (("slow", slow_url), ("fast", url))
        ]  # fmt: skip
        notifier = Notifier(workers)
        notifier.start()
        try:
            journal = Journal(client, KEYS, ["slow", "fast"])
            clock_ms = WallClock().now_ms()
            judge = evaluator(journal, source({}), SLOW)
            judge.run(at(1), {})
            for name in ("slow", "fast"):
                client.hset(KEYS.pending(name), "a firing", json.dumps(vars(note("a", "firing", clock_ms - 1))))
            notifier.wake()
            deadline = time.monotonic() + 20
            while not (received and slow_received):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert judge.run(at(2), {}).ticks == 1
            assert workers[0].figures.sent == 0
        finally:
            notifier.stop(timeout_s=0.1)


# Servers that misbehave, texts that are meant to


@contextmanager
def raw_server(answer: bytes, *, drip_s: float = 0.0) -> Iterator[str]:
    """A server that answers every request with these bytes, one at a time when told to."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                if not answer.startswith(b"220"):
                    self.request.recv(65536)
                for byte in answer if drip_s else [answer]:
                    self.request.sendall(bytes([byte]) if drip_s else answer)
                    if ended.wait(drip_s):
                        return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}/services/T0/B0/secret-token"
        finally:
            ended.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x00\xff garbage\r\n\r\n", b"HTTP/1.1 999999 what\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"220 mail\r\n" * 3],
)
@pytest.mark.parametrize("kind", ["webhook", "slack"])
def test_garbage_for_an_answer_is_undelivered(kind: str, answer: bytes) -> None:
    """Whatever a server answers, if it is no success in HTTP the notification is undelivered; no secret is said."""
    with raw_server(answer) as place, pytest.raises(Undelivered) as error:
        channels.send(Channel(name="c", kind=kind, url=f"http://{place}", timeout="5s"), BODY, "k1")  # type: ignore[arg-type]
    assert "secret-token" not in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("kind", "scheme", "answer"),
    [
        ("webhook", "http", b"HTTP/1.1 200 " + b"x" * 500),
        ("webhook", "http", b"HTTP/1.1 200 OK\r\nX-Header: " + b"x" * 500),
        ("slack", "https", b"\x16\x03\x03\x40\x00" + b"x" * 500),
        ("email", "smtp", b"220 " + b"x" * 500),
        ("email", "smtps", b"\x16\x03\x03\x40\x00" + b"x" * 500),
    ],
)
def test_a_server_that_drips_is_cut_off_by_one_deadline(kind: str, scheme: str, answer: bytes) -> None:
    """A byte every 50 ms keeps every wait short and the request endless; the deadline of the whole ends it."""
    more = {"sender": "p@x.org", "to": ["a@x.org"]} if kind == "email" else {}
    with raw_server(answer, drip_s=0.05) as place:
        url = f"{scheme}://{place.partition('/')[0]}"
        channel = Channel(name="c", kind=kind, url=url, timeout="500ms", **more)  # type: ignore[arg-type]
        began = time.monotonic()
        with pytest.raises(Undelivered, match=r"within 0\.5 s"):
            channels.send(channel, BODY, "k1")
    assert time.monotonic() - began < 20, "500 bytes would take 25 s"


def test_one_group_that_fails_holds_up_no_other(client: redis.Redis) -> None:
    """A notification that raises, whatever it raises, is tried again later; the other groups are told now."""
    for name in ("bad", "good"):
        text = json.dumps({**vars(note(name, "firing", 0)), "labels": {"rule": name}})
        client.hset(KEYS.pending("c"), f"{name} firing 0", text)
    client.hset(KEYS.pending("c"), mapping={"junk": b"\xff{", "deep": "[" * 100_000})
    with raw_server(b"\x00\x01\x02") as bad, http() as (good, received):

        def send(channel: Channel, body: wording.Body, key: str) -> None:
            url = f"http://{bad}" if body["group"]["rule"] == "bad" else good
            channels.send(channel.model_copy(update={"url": url}), body, key)

        teller = worker(client, "c", send)
        teller.turn(1)
        teller.turn(2)
    assert [body["group"]["rule"] for _, body in received] == ["good"]
    assert (teller.figures.sent, teller.figures.failed) == (1, 1)
    assert client.hkeys(KEYS.pending("c")) == [b"bad firing 0"], (
        "what cannot be read is removed, what is undelivered stays"
    )


EVIL = "a\r\nBcc: all@example.org\x1b[2J\x00 <!channel> @everyone [click](http://evil) \u202e"


def test_text_from_producers_means_nothing_to_a_mail() -> None:
    """Line ends, escapes and NUL in a name are written out; the mail arrives, with one subject and no new header."""
    alert = {**ALERT, "message": EVIL}
    body = {**BODY, "group": {"test_suite": EVIL}, "alerts": [alert]}
    with smtp() as (url, mails):
        channel = Channel(name="c", kind="email", url=url, sender="p@example.org", to=["a@example.org"])
        channels.send(channel, body, "k1")
    mail = message_from_string(mails[0])
    assert mail["Bcc"] is None
    text = mail.get_payload(decode=True).decode()  # type: ignore[union-attr]
    subject = str(make_header(decode_header(mail["Subject"])))
    assert r"a\r\nBcc: all@example.org\x1b[2J\x00" in subject.replace("\n", "")
    assert text.replace("\n", "").replace("\r", "").isprintable()


@pytest.mark.parametrize("charset", ["x", "utf-8", "us-ascii"])
def test_an_encoded_word_in_a_name_adds_no_header(charset: str) -> None:
    """``=?…?=`` is how headers write what is not ASCII; the mail library would make a line end and a Bcc of it."""
    body = {**BODY, "group": {"test_suite": f"=?{charset}?q?=0d=0aBcc:all@example.org?= =?{charset}?b?DQpCY2M6YUBi?="}}
    with smtp() as (url, mails):
        channels.send(Channel(name="c", kind="email", url=url, sender="p@b", to=["a@b"]), body, "k1")
    mail = message_from_string(mails[0])
    assert mail["Bcc"] is None
    assert "Bcc" in str(make_header(decode_header(mail["Subject"])))


def test_what_people_get_is_of_a_length_that_servers_take() -> None:
    """Names of 64 KB in every alert of a storm: mail and message are short, a program gets all of it."""
    name = "é" * 32_000
    alert = {**ALERT, "message": f"{name} is slow", "labels": {"test_suite": name}, "link": f"http://page/#{name}"}
    body = {**BODY, "group": {"test_suite": name}, "firing": 500, "alerts": [alert] * 500}
    with smtp() as (url, mails):
        channels.send(Channel(name="c", kind="email", url=url, sender="p@b", to=["a@b"]), body, "k1")
    subject = str(make_header(decode_header(message_from_string(mails[0])["Subject"])))
    assert len(subject) <= 210 and "500 firing" in subject
    assert len(mails[0]) < 1_000_000
    with http(200) as (url, received):
        channels.send(Channel(name="c", kind="slack", url=url), body, "k1")
        channels.send(Channel(name="c", kind="webhook", url=url), body, "k1")
    (_, slack), (_, webhook) = received
    assert len(json.dumps(slack)) < 300_000
    assert webhook["alerts"] == body["alerts"]


def test_half_a_character_is_delivered() -> None:
    """What no text encoding has is written as JSON has it."""
    with http(200) as (url, received):
        for kind in ("slack", "webhook"):
            channels.send(Channel(name="c", kind=kind, url=url), {**BODY, "group": {"page": "\ud800"}}, "k1")
    assert received[1][1]["group"] == {"page": "\ud800"}


def test_text_from_producers_means_nothing_to_a_chat() -> None:
    """No mention, no link, no image, no escape: neither for Slack nor for those that read Markdown."""
    body = {**BODY, "group": {"test_suite": EVIL}, "alerts": [{**ALERT, "message": EVIL}]}
    with http(200) as (url, received):
        channels.send(Channel(name="c", kind="slack", url=url), body, "k1")
    ((_, sent),) = received
    for text in (sent["text"], sent["attachments"][0]["text"], sent["attachments"][0]["fallback"]):
        assert not any(part in text for part in ("<!channel>", "@everyone", "](", "\x1b", "\n", "\u202e"))
        assert "&lt;!channel&gt;" in text


@pytest.mark.parametrize(
    "given",
    [
        {**HOOK, "url": "http://u:secret-1@host:port/"},
        {**HOOK, "url": "http://host/secret-1\r\nX: y"},
        {**HOOK, "headers": {"Authorization": "Bearer secret-1\nX: y"}},
        {**HOOK, "kind": "email", "url": "smtp://u:secret-1@host", "sender": "a\nb", "to": ["x"]},
        {**HOOK, "url": "ftp://secret-1@host"},
        {**HOOK, "passwort": "secret-1"},
        {**HOOK, "name": "http://u:secret-1@host", "kind": "fax"},
    ],
)
def test_a_refused_channel_keeps_its_secret(given: dict[str, Any]) -> None:
    """A mistake in a channel is told without what its URL, headers or password hold."""
    with pytest.raises(ConfigError) as error:
        parse_channels([given])
    assert "secret-1" not in str(error.value)


def test_a_storm_is_told_in_parts(client: redis.Redis) -> None:
    """Thousands of alerts of one group go out in parts, each alert once; people get some messages and the number."""
    notes = {f"a{i}": json.dumps(vars(note(f"a{i}", "firing", 0))) for i in range(2600)}
    notes = {json.loads(text)["transition_id"]: text for text in notes.values()}
    for name in ("c", "p"):
        client.hset(KEYS.pending(name), mapping=notes)
    told: list[wording.Body] = []
    robot = worker(client, "c", lambda _, body, __: told.append(body))
    robot.turn(1)
    robot.turn(2)
    assert sorted(len(body["alerts"]) for body in told) == [100, 500, 500, 500, 500, 500]
    assert len({alert["name"] for body in told for alert in body["alerts"]}) == 2600
    assert client.hlen(KEYS.pending("c")) == 0
    messages: list[wording.Body] = []
    people = worker(client, "p", lambda _, body, __: messages.append(body), kind="slack")
    people.turn(1)
    assert len(messages) == wording.MOST_MESSAGES
    assert sum("not sent here" in " ".join(wording.rest(body)) for body in messages) == 1
    assert client.hlen(KEYS.pending("p")) == 0

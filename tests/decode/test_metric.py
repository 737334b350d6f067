import json
import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any, get_args

import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from items import NOT_NUMBERS, OPTIONAL, SEALED_AT_MS, Maker

from pipeline.metric import DIMENSIONS, Limits, Metric, Reason, Refusal, decode

NOW_S = SEALED_AT_MS // 1000
ANY_TIME = Limits(retention_ms=10**21, future_ms=10**21)


def read(item: str | bytes, limits: Limits | None = None) -> Metric | Refusal:
    return decode(item.encode() if isinstance(item, str) else item, SEALED_AT_MS, limits or Limits())


def accepted(item: str | bytes, limits: Limits | None = None) -> Metric:
    metric = read(item, limits)
    assert isinstance(metric, Metric), metric
    return metric


def refused(item: str | bytes, limits: Limits | None = None) -> Refusal:
    refusal = read(item, limits)
    assert isinstance(refusal, Refusal), refusal
    return refusal


def item_with(**texts: str) -> str:
    """An item whose fields have these JSON texts; what is required and not given is usual."""
    fields = {"timestamp": str(SEALED_AT_MS), "metric_type": '"lcp"', "value": "1"} | texts
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in fields.items()) + "}"


# What is accepted


def test_the_document_s_item_becomes_a_metric() -> None:
    """Every known field lands in its column; what is absent is the empty string."""
    item = (
        '{"timestamp": "2023-11-14T22:13:20.5Z", "metric_type": "duration", "value": 2500, "test_id": "auth-001", '
        '"test_name": "login", "test_suite": "auth", "environment": "staging", "browser": "chromium", '
        '"page": "/login", "endpoint": "/api", "node": "worker-1", "status": "passed", "tags": {"team": "web"}}'
    )
    assert accepted(item) == Metric(
        timestamp_ms=1_700_000_000_500,
        metric_type="duration",
        value=2500.0,
        test_id="auth-001",
        test_name="login",
        test_suite="auth",
        environment="staging",
        browser="chromium",
        page="/login",
        endpoint="/api",
        node="worker-1",
        status="passed",
        tags={"team": "web"},
    )
    bare = accepted(item_with())
    assert [getattr(bare, name) for name in DIMENSIONS[1:]] == [""] * 9 and bare.tags == {}


@pytest.mark.parametrize(
    ("texts", "column", "tags"),
    [
        pytest.param({"page": "null"}, "", {}, id="null is absent"),
        pytest.param({"page": '""'}, "", {}, id="empty"),
        pytest.param({"page": "7"}, "7", {}, id="a number as text, as it was written"),
        pytest.param({"page": "1.50e1"}, "1.50e1", {}, id="an exponent stays"),
        pytest.param({"page": "true"}, "true", {}, id="a boolean as text"),
        pytest.param({"page": '"\\u00e9\\n"'}, "é\n", {}, id="escapes resolved"),
        pytest.param({"page": '{"a": 1}'}, "", {"page": '{"a": 1}'}, id="nested where text belongs: to the tags"),
        pytest.param({"page": "[1]", "tags": '{"page":"x"}'}, "", {"page": "x", "field.page": "[1]"}, id="both"),
        pytest.param({"shard": "3"}, "", {"shard": "3"}, id="an unknown field is a tag"),
        pytest.param({"shard": "null"}, "", {"shard": "null"}, id="an unknown null is kept"),
        pytest.param({"shard": '{"a" : [1,2.0]}'}, "", {"shard": '{"a" : [1,2.0]}'}, id="nested stays JSON text"),
        pytest.param({"shard": "1e999"}, "", {"shard": "1e999"}, id="a number too large to compute stays text"),
        pytest.param({"tags": "null"}, "", {}, id="no tags"),
        pytest.param(
            {"tags": '{"a":null,"b":false,"c":{"d":1}}'}, "", {"a": "null", "b": "false", "c": '{"d":1}'}, id="tags"
        ),
        pytest.param({"x": "3", "tags": '{"x":1}'}, "", {"x": "1", "field.x": "3"}, id="tag and field of one name"),
        pytest.param(
            {"x": "3", "tags": '{"x":1,"field.x":2}'},
            "",
            {"x": "1", "field.x": "2", "field.field.x": "3"},
            id="tag, tag in the way, and field",
        ),
        pytest.param({"tags": '{"a":1,"a":2}'}, "", {"a": "2"}, id="of a tag twice the last wins"),
    ],
)
def test_where_a_field_lands(texts: dict[str, str], column: str, tags: dict[str, str]) -> None:
    """Columns for scalars of known names, tags for all else: nothing sent is lost."""
    metric = accepted(item_with(**texts))
    assert (metric.page, metric.tags) == (column, tags)


def test_of_duplicate_keys_the_last_wins() -> None:
    """Even where an earlier one would be refused, and under an escaped name."""
    item = item_with(value='"wrong"')[:-1] + ',"v\\u0061lue":2,"page":"a","page":"b"}'
    metric = accepted(item)
    assert (metric.value, metric.page) == (2.0, "b")
    assert refused(item_with()[:-1] + ',"value":null}').reason == "missing field"


# What is refused

REFUSALS: list[tuple[str, str | bytes, Reason, str]] = [
    ("empty", "", "not JSON", ""),
    ("a word", "metric", "not JSON", ""),
    ("cut short", item_with()[:-1], "not JSON", ""),
    ("two objects", item_with() + item_with(), "not JSON", "trailing"),
    ("a comma at the end", item_with()[:-1] + ",}", "not JSON", "comma"),
    ("single quotes", item_with().replace('"', "'"), "not JSON", ""),
    ("a comment", item_with() + "//", "not JSON", ""),
    ("a control character in text", item_with(page='"a\nb"'), "not JSON", "invalid character"),
    ("a wrong escape", item_with(page='"\\q"'), "not JSON", "escape"),
    ("behind a number too large", item_with(x='[1e999,"\\q"]'), "not JSON", ""),
    ("an array", "[" + item_with() + "]", "not an object", "one JSON object"),
    ("null", "null", "not an object", "one JSON object"),
    ("text", '"metric"', "not an object", "one JSON object"),
    ("no UTF-8", item_with(page='"x"').encode().replace(b"x", b"\xff"), "invalid UTF-8", "is not UTF-8"),
    ("UTF-8 of a surrogate", item_with(page='"x"').encode().replace(b"x", b"\xed\xa0\x80"), "invalid UTF-8", ""),
    ("an overlong form", item_with(page='"x"').encode().replace(b"x", b"\xc0\x80"), "invalid UTF-8", ""),
    ("too long", item_with(page='"' + "x" * 65_536 + '"'), "item too large", "at most 65536"),
    ("too deep", item_with(x="[" * 32 + "]" * 32), "too deep", "32 levels"),
    ("too deep and cut short", "[" * 33, "too deep", "32 levels"),
    ("an empty object", "{}", "missing field", "'timestamp'"),
    ("no timestamp", '{"metric_type":"lcp","value":1}', "missing field", "'timestamp'"),
    ("no type", f'{{"timestamp":{NOW_S},"value":1}}', "missing field", "'metric_type'"),
    ("no value", f'{{"timestamp":{NOW_S},"metric_type":"lcp"}}', "missing field", "'value'"),
    ("value null", item_with(value="null"), "missing field", "'value'"),
    ("an empty type", item_with(metric_type='""'), "missing field", "empty"),
    ("a type that is a number", item_with(metric_type="7"), "wrong type", "'metric_type' must be a string"),
    ("a value that is text", item_with(value='"1"'), "wrong type", "not a string"),
    ("a value that is true", item_with(value="true"), "wrong type", "not a boolean"),
    ("a value that is an array", item_with(value="[1]"), "wrong type", "not an array"),
    ("a timestamp that is an object", item_with(timestamp="{}"), "wrong type", "not an object"),
    ("tags that are an array", item_with(tags="[]"), "wrong type", "not an array"),
    ("tags that are a number", item_with(tags="7"), "wrong type", "the number 7"),
    ("NaN", item_with(value="NaN"), "not JSON", ""),
    ("Infinity", item_with(value="-Infinity"), "not JSON", ""),
    ("overflow", item_with(value="1e309"), "not finite", "1e309"),
    ("overflow, negative", item_with(value="-1e400"), "not finite", ""),
    ("a date alone", item_with(timestamp='"2023-11-14"'), "bad timestamp", "zone"),
    ("a time without zone", item_with(timestamp='"2023-11-14T22:13:20"'), "bad timestamp", "zone"),
    ("the 30th of February", item_with(timestamp='"2023-02-30T00:00:00Z"'), "bad timestamp", "day"),
    ("hour 24", item_with(timestamp='"2023-11-14T24:00:00Z"'), "bad timestamp", "hour"),
    ("a leap second", item_with(timestamp='"2023-11-14T23:59:60Z"'), "bad timestamp", "second"),
    ("zone +24:00", item_with(timestamp='"2023-11-14T22:13:20+24:00"'), "bad timestamp", "no such zone"),
    ("other digits", item_with(timestamp='"２023-11-14T22:13:20Z"'), "bad timestamp", ""),
    ("1e300", item_with(timestamp="1e300"), "bad timestamp", "no time"),
    ("1e999", item_with(timestamp="1e999"), "bad timestamp", "no time"),
    ("an exponent beyond measure", item_with(timestamp="0e99999999999999999999"), "timestamp too old", "1970"),
    ("an exponent far below", item_with(timestamp="1e-99999999999999999999"), "timestamp too old", "1970"),
    ("last month", item_with(timestamp=str(NOW_S - 720 * 3600 - 1)), "timestamp too old", "before the retention"),
    ("tomorrow", item_with(timestamp=str(NOW_S + 301)), "timestamp too far ahead", "was in the future"),
]


@pytest.mark.parametrize(("item", "reason", "words"), [pytest.param(*row[1:], id=row[0]) for row in REFUSALS])
def test_why_an_item_is_refused(item: str | bytes, reason: Reason, words: str) -> None:
    """A reason from the list, and the particulars in words."""
    refusal = refused(item)
    assert (refusal.reason, words in refusal.detail) == (reason, True), refusal


def test_every_reason_has_an_example() -> None:
    """Those above are all there are, but for ClickHouse's own."""
    assert {row[2] for row in REFUSALS} == set(get_args(Reason)) - {"refused by ClickHouse"}


@pytest.mark.parametrize("text", [*NOT_NUMBERS, "tru", "TRUE", "undefined", "", "'1'"])
@pytest.mark.parametrize("name", ["timestamp", "value", "page", "shard", "tags"])
def test_what_is_no_json_is_refused_in_any_field(name: str, text: str) -> None:
    """Also where the value would merely have been kept as text."""
    assert refused(item_with(**{name: text})).reason == "not JSON"


@pytest.mark.parametrize(
    "item",
    [
        item_with(**{"n" * 60_000: '"\\q"'}),
        item_with(timestamp='"' + "9" * 60_000 + '"'),
        item_with(timestamp='"2023-02-30T00:00:00.' + "9" * 60_000 + 'Z"'),
        item_with(timestamp='"2023-11-14T00:00:00.' + "9" * 60_000 + '+99:00"'),
        item_with(value="9" * 60_000),
        item_with(value='"' + "9" * 60_000 + '"'),
        item_with(timestamp="9" * 60_000),
    ],
    ids=range(7),
)
def test_particulars_are_short(item: str) -> None:
    """However long what was sent."""
    assert len(refused(item).detail) < 200


# Sizes and depths


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from("[{"), st.booleans())
def test_depth_counts_levels_not_brackets(limit: int, depth: int, bracket: str, in_text: bool) -> None:
    """Accepted up to ``max_depth`` levels, the item's own included; brackets inside strings are text."""
    nested = "[" * depth + "]" * depth if bracket == "[" else '{"a":' * depth + "1" + "}" * depth
    text = json.dumps('\\"' + nested + "\\") if in_text else nested
    item = item_with(x=text, y=json.dumps("[{" * 50), z='"\\\\"')
    is_too_deep = (1 if in_text else depth + 1) > limit
    found = read(item, Limits(max_depth=limit))
    assert (isinstance(found, Refusal) and found.reason == "too deep") == is_too_deep


def test_depth_beyond_the_parser_s_own_is_a_refusal_too() -> None:
    """A limit set too high does not let an item bring the reader down."""
    assert refused(item_with(x="[" * 30_000 + "]" * 30_000), Limits(max_depth=100_000)).reason == "too deep"


@pytest.mark.parametrize("end", ['\\"', '"', "\\", ""])
def test_an_item_made_of_quotes_is_read_once(end: str) -> None:
    """No pattern is tried again at every quote: two million of them would take days."""
    item = "[" * 40 + '"' + '\\"' * 2_000_000 + end
    assert refused(item, Limits(max_item_bytes=10_000_000)).reason == "too deep"


def test_size_is_counted_in_bytes_and_the_limit_is_inclusive() -> None:
    """One byte more is refused."""
    item = item_with(page='"é"').encode()
    assert accepted(item, Limits(max_item_bytes=len(item))).page == "é"
    assert refused(item, Limits(max_item_bytes=len(item) - 1)).reason == "item too large"


# Times


@given(
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),
    st.integers(-1439, 1439),
    st.integers(0, 12),
    st.sampled_from("T t"),
    st.booleans(),
)
def test_iso_times_are_those_of_the_standard_library(
    moment: datetime, offset_min: int, digits: int, separator: str, colon: bool
) -> None:
    """Any zone, any number of decimals (floored to the millisecond), as datetime.fromisoformat reads them."""
    fraction = f"{moment.microsecond:06d}987654"[:digits]
    zone = (
        f"{'-' if offset_min < 0 else '+'}{abs(offset_min) // 60:02d}{':' if colon else ''}{abs(offset_min) % 60:02d}"
    )
    text = moment.strftime("%m-%dT%H:%M:%S").replace("T", separator) + (f".{fraction}" if digits else "") + zone
    text = f"{moment.year:04d}-{text}"
    expected = datetime.fromisoformat(text)
    expected_ms = (expected - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert accepted(item_with(timestamp=f'"{text}"'), ANY_TIME).timestamp_ms == expected_ms


@pytest.mark.parametrize(
    ("text", "offset_ms"),
    [
        ("2023-11-14T22:13Z", -20_000),
        ("2023-11-14T22:13+00:00", -20_000),
        ("2023-11-14 22:13:20+00", 0),
        ("2023-11-14T23:13:20+01", 0),
        ("2023-11-14T22:13:20,123Z", 123),
        ("20231114T221320Z", 0),
        ("20231114T221320.5Z", 500),
        ("20231114T2213Z", -20_000),
        ("20231114T22:13:20Z", 0),
        ("20231114T231320+0100", 0),
        ("2023-11-14 22:13:20 +0000", 0),
        ("2023-11-14 22:13:20 UTC", 0),
        ("2023-11-14T23:13:20.25+01:00[Europe/Paris]", 250),
    ],
)
def test_times_as_other_languages_write_them(text: str, offset_ms: int) -> None:
    """Java leaves zero seconds away, PostgreSQL the zone's minutes, Log4j writes a comma, others the basic form."""
    assert accepted(item_with(timestamp=f'"{text}"')).timestamp_ms == SEALED_AT_MS // 1000 * 1000 + offset_ms


@pytest.mark.parametrize(
    "text", ["2023-1114T22:13:20Z", "2023-11-14T22Z", "2023-11-14T22:1320Z", "2023-11-14T22:13:20", "20231114221320Z"]
)
def test_mixed_forms_and_times_without_zone_stay_refused(text: str) -> None:
    """What could be read in two ways is not guessed."""
    assert refused(item_with(timestamp=f'"{text}"')).reason == "bad timestamp"


@pytest.mark.parametrize(
    ("texts", "page", "tags"),
    [
        pytest.param({"page": r'"a\ud83d"'}, "a\ufffd", {}, id="half an emoji"),
        pytest.param({"page": r'"\uDE00\ud83d\ude00"'}, "\ufffd😀", {}, id="a half and a whole one"),
        pytest.param({"page": r'"\ud83d\ud83d\ude00"'}, "\ufffd😀", {}, id="two first halves"),
        pytest.param({"page": r'"\\ud83d"'}, r"\ud83d", {}, id="an escaped backslash"),
        pytest.param({"tags": r'{"\udc00":1}'}, "", {"\ufffd": "1"}, id="in a tag's name"),
        pytest.param({"x": r'[["\ud800"]]'}, "", {"x": r'[["\ufffd"]]'}, id="deep inside"),
    ],
)
def test_half_a_character_is_stored_as_one_that_says_so(texts: dict[str, str], page: str, tags: dict[str, str]) -> None:
    """A text cut inside a surrogate pair keeps the rest, with U+FFFD for the half."""
    metric = accepted(item_with(**texts))
    assert (metric.page, metric.tags) == (page, tags)


def test_a_byte_order_mark_before_an_item_is_skipped() -> None:
    """Windows tools put one before the first line."""
    assert accepted(b"\xef\xbb\xbf" + item_with(page='"é"').encode()).page == "é"


@settings(max_examples=500)
@given(st.integers(0, 32), st.sampled_from("0123456789-+:.TZtz é"), st.integers(0, 2), st.sampled_from((0, 1, 3, 6, 9)))
def test_a_damaged_time_is_refused_or_still_means_the_same(at: int, put: str, cut: int, digits: int) -> None:
    """What is accepted, datetime.fromisoformat accepts too, with a zone and as the same moment."""
    text = "2023-11-14T22:13:20" + ("." + "123456789"[:digits] if digits else "") + "+01:00"
    text = text[:at] + put + text[at + cut :]
    found = read(item_with(timestamp=json.dumps(text)), ANY_TIME)
    if isinstance(found, Metric):
        expected = datetime.fromisoformat(text.upper().replace(" +", "+").replace(" Z", "Z"))
        assert expected.tzinfo is not None
        assert found.timestamp_ms == (expected - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    else:
        assert found.reason == "bad timestamp"


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", fullmatch=True))
@example("99999999999.9999999999999999999999999999999999")
@example("1700000000.1239999999999999999999999999")
@example("-0.0001")
@example("1e17")
@example("100000000000")
def test_numbers_are_seconds_or_milliseconds_floored_exactly(text: str) -> None:
    """Below 1e11 seconds, else milliseconds; no digit is rounded up, whatever how many there are."""
    number = Fraction(text)
    found = read(item_with(timestamp=text), ANY_TIME)
    if abs(float(text)) > 1e17:
        assert isinstance(found, Refusal) and found.reason == "bad timestamp"
        return
    expected_ms = math.floor(number * 1000 if number < 10**11 else number)
    assert isinstance(found, Metric) and found.timestamp_ms == expected_ms


@given(st.integers(10**12, 10**13), st.integers(-3, 3), st.sampled_from(("oldest", "newest")))
def test_the_range_is_judged_by_the_sealing_time_alone(sealed_at_ms: int, beside_ms: int, edge: str) -> None:
    """[sealing - retention, sealing + future], both ends included; the clock on the wall has no say."""
    limits = Limits()
    bound_ms = sealed_at_ms - limits.retention_ms if edge == "oldest" else sealed_at_ms + limits.future_ms
    moment_ms = bound_ms + beside_ms
    found = decode(item_with(timestamp=str(moment_ms)).encode(), sealed_at_ms, limits)
    if edge == "oldest":
        expected = "timestamp too old" if beside_ms < 0 else None
    else:
        expected = "timestamp too far ahead" if beside_ms > 0 else None
    assert (found.reason if isinstance(found, Refusal) else None) == expected


# Against other parsers


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(-0.0)
@example(5e-324)
def test_a_finite_value_keeps_every_bit(value: float) -> None:
    """What repr writes is read back as the same float."""
    found = accepted(item_with(value=repr(value))).value
    assert (found, math.copysign(1, found)) == (value, math.copysign(1, value))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
NAMES = st.one_of(st.sampled_from(OPTIONAL), st.text(max_size=5).filter(lambda name: not name.startswith("field.")))


@given(
    st.dictionaries(NAMES, VALUES, max_size=5),
    st.dictionaries(st.text(max_size=4), VALUES, max_size=3) | st.none(),
    st.booleans(),
    st.sampled_from(((",", ":"), (", ", ": "), (" ,\n", "\t: "))),
)
def test_nothing_that_was_sent_is_lost(
    fields: dict[str, Any], tags: dict[str, Any] | None, ascii_only: bool, separators: tuple[str, str]
) -> None:
    """Each field stands in its column or in the tags, scalars as text, nested values as JSON that means the same."""
    fields = fields | {"timestamp": SEALED_AT_MS, "metric_type": "lcp", "value": 1}
    if tags is None:
        fields.pop("tags", None)
    else:
        fields["tags"] = tags
    item = json.dumps(fields, ensure_ascii=ascii_only, separators=separators)
    assume(isinstance(orjson.loads(item.encode()), dict))
    metric = accepted(item)
    left = dict(metric.tags)
    for name, value in (tags or {}).items():
        assert means(left.pop(name), value)
    for name, value in fields.items():
        if name in ("timestamp", "metric_type", "value", "tags"):
            continue
        if name in OPTIONAL and not isinstance(value, dict | list):
            assert (getattr(metric, name) == "") if value is None else means(getattr(metric, name), value)
        else:
            assert means(left.pop(name if name not in (tags or {}) else f"field.{name}"), value)
    assert left == {}


def means(text: str, value: Any) -> bool:
    """Whether the text is the value: itself if it is text, else its JSON."""
    return text == value if isinstance(value, str) else json.loads(text) == value


@given(st.randoms(use_true_random=False))
def test_json_is_what_orjson_says_it_is(chance: Random) -> None:
    """An object is "not JSON" or "invalid UTF-8" exactly when orjson refuses it."""
    for item in Maker(chance).batch(most=4):
        assert_judged_alike(item)


@given(
    st.one_of(
        st.binary(max_size=30), st.text('{}[],:"\\0123456789.eE+- \n\ttruefalsn\x00u', max_size=40).map(str.encode)
    )
)
@example(b'{"a":1e999}')
@example(b'{"a":"\x7f"}')
@example(b'\xef\xbb\xbf{"a":1}')
@example(b'\xef\xbb\xbf\xef\xbb\xbf{"a":1}')
def test_any_bytes_are_judged_as_orjson_judges_them(item: bytes) -> None:
    """Bytes without structure, and soup of JSON's own characters, alone and as a field's value."""
    assert_judged_alike(item)
    assert_judged_alike(item_with(x="?").encode().replace(b"?", item))


def assert_judged_alike(item: bytes) -> None:
    found = read(item)
    reason = found.reason if isinstance(found, Refusal) else "accepted"
    if reason in ("too deep", "item too large"):
        return  # not looked at any closer
    item = item.removeprefix(b"\xef\xbb\xbf")  # a mark in front is allowed here, and orjson knows none
    try:
        document = orjson.loads(item)
    except orjson.JSONDecodeError as error:
        if "infinity" in str(error):
            return  # JSON's grammar knows no largest number; what no float can hold is kept as text
        if item.lstrip(b" \t\r\n")[:1] == b"{":
            assert reason in ("not JSON", "invalid UTF-8")
        else:
            assert reason in ("not JSON", "invalid UTF-8", "not an object")
    else:
        assert reason not in ("not JSON", "invalid UTF-8"), found
        assert (reason == "not an object") == (not isinstance(document, dict))


def test_reading_again_gives_the_same() -> None:
    """Item and sealing time decide alone: what was read before leaves no trace."""
    items = [item for seed in range(20) for item in Maker(Random(seed)).batch(most=30)]
    once = [read(item) for item in items]
    assert [read(item) for item in reversed(items)] == once[::-1]

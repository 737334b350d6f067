"""Items for the drain's tests: realistic ones, each with a number of its own, and mangled ones of every kind."""

import base64
import json
import re
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from random import Random

SEALED_AT_MS = 1_700_000_000_000
"""When the segments of tests that need no Redis were sealed: 2023-11-14T22:13:20Z."""

TEXTS = (
    "",
    "a",
    "checkout",
    "Größe µs",
    "日本語",
    "🦆",
    "a b",
    "null",
    "7",
    "\\",
    '"',
    "\n",
    "\x00",
    "\x7f",
    "é",
    "'",
    "{",
    "],[",
)
NAMES = (
    "attempt",
    "shard",
    "ci.job",
    "Größe",
    "page",
    "value",
    "tags",
    "timestamp",
    "",
    "field.page",
    "a\nb",
    "commit",
)
OPTIONAL = ("environment", "browser", "test_suite", "test_id", "test_name", "page", "endpoint", "node", "status")
TEXTS_OF_TIMES = (
    *("2023-02-29T00:00:00Z", "2024-02-29T00:00:00Z", "2023-11-14T24:00:00Z", "2023-11-14T22:13:60Z", "2023-11-14"),
    *("2023-11-14T22:13:20", "2023-11-14T22:13:20.5+24:00", "2262-04-12T00:00:00Z", "0000-01-01T00:00:00Z", "now"),
)
NUMBERS = (
    *("0", "-0", "1", "-1", "1.5", "-0.0", "0.1", "1e5", "1E-5", "1e+5", "12345678901234567890", "1e308", "5e-324"),
    *("1e309", "-1e400", "0." + "0" * 330 + "1", "9" * 400, "2.2250738585072011e-308", "0e99999999999999999999"),
)
NOT_NUMBERS = (
    "01",
    "-01",
    "1.",
    ".5",
    "+1",
    "-",
    "1e",
    "1e+",
    "1.e5",
    "0x1",
    "1_0",
    "1.2.3",
    "NaN",
    "Infinity",
    "-Infinity",
    "١",
)
STRANGE_BYTES = (
    *(b"\\", b'"', b'\\"', b"\\u0000", b"\x00", b"\x7f", b"\n", b"{", b"}", b"[", b"]", b",", b":", b"\xef\xbb\xbf"),
    *(b"\xff", b"\xc3", b"\xa9", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80"),
    *(
        b"\\ud800",
        b"\\udc00",
        b"\\ud83e\\udd86",
        b"\\udd86\\ud83e",
        b"\\ud83e\\ud83e",
        b"\\u00e9",
        b"\\u12",
        b"\\u00g0",
        b"\\u00/0",
        b"\\x41",
        b"\\/",
    ),
)
"""Escapes good and bad, halves of characters, overlong and beyond Unicode, surrogates as bytes and as escapes."""
_VALUE = re.compile(rb':[ \n\t]*("[^"]*"|[^",{}\[\]\s]+)')
_KEY = re.compile(rb'"([a-z_]+)":')
COMMENTS = (b"/* why */", b"// why\n", b"# why\n", b"<!-- why -->", b"-- why\n")
NOT_VALUES = (*NOT_NUMBERS, "true", "false", "null", '"5"', "[5]", '{"v":5}', "tru", "nul", "", "5 5", '"')


def metric(number: int, timestamp: str, *, kind: str = "duration", value: float = 1.5) -> bytes:
    """A realistic item; ``test_id`` carries ``number``, by which it is found again."""
    return (
        f'{{"timestamp":{timestamp},"metric_type":"{kind}","value":{value},"test_id":"{number}",'
        f'"test_suite":"checkout","environment":"staging","browser":"chromium","status":"passed"}}'
    ).encode()


def iso(epoch_ms: int, *, digits: int = 3, offset_min: int | None = None) -> str:
    """An ISO-8601 time with so many decimals, in UTC or with an offset."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=epoch_ms)
    if offset_min is not None:
        moment = moment.astimezone(timezone(timedelta(minutes=offset_min)))
    fraction = f".{epoch_ms % 1000:03d}000000"[: digits + 1] if digits else ""
    zone = (
        "Z"
        if offset_min is None
        else f"{'-' if offset_min < 0 else '+'}{abs(offset_min) // 60:02d}:{abs(offset_min) % 60:02d}"
    )
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + fraction + zone


class Maker:
    """Makes items out of a source of chance; the same source gives the same items."""

    def __init__(self, chance: Random, now_ms: int = SEALED_AT_MS) -> None:
        self.chance = chance
        self.now_ms = now_ms

    def batch(self, most: int) -> list[bytes]:
        """Items as a chunk holds them: a few shapes, many of each, some mangled, borders under attack."""
        chance = self.chance
        shapes = [self.shape() for _ in range(chance.randint(1, 3))]
        items = [self.filled(chance.choice(shapes)) for _ in range(chance.randint(1, most))]
        for _ in range(chance.choice((0, 0, 1, 2, len(items) // 3))):
            at = chance.randrange(len(items))
            items[at] = self.mangled(items[at])
        if chance.random() < 0.3:
            items = self.with_torn_borders(items)
        return items

    def stream(self, count: int) -> list[bytes]:
        """Items as a whole drain meets them: of a few producers, mostly good, every kind of damage among them."""
        chance = self.chance
        producers = [self.usual_producer() for _ in range(4)] + [self.odd_producer() for _ in range(2)]
        items: list[bytes] = []
        while len(items) < count:
            block = [chance.choice(producers)(number) for number in range(200)]
            for _ in range(chance.choice((0, 2, 20, 100))):
                at = chance.randrange(len(block))
                match chance.randrange(7):
                    case 0:
                        block[at] = self.mangled(block[at])
                    case 1:
                        block[at] = self.disguised(block[at])
                    case 2 | 3 | 4:
                        block[at] = self.reworded(block[at])
                    case 5:
                        block[at] = self.scarred(block[at], chance.choice(block))
                    case _:
                        block[at] = self.scarred(self.disguised(block[at]), self.mangled(block[at]))
            items += block if chance.random() < 0.9 else self.batch(most=200)
        return items[:count]

    def usual_producer(self) -> Callable[[int], bytes]:
        """Makes realistic items of one shape."""
        chance = self.chance
        kind = chance.choice(("duration", "lcp", "cls"))
        rest = chance.choice((b"}", b',"tags":{"branch":"main","retry":1},"build":"b-7"}', b',"page":"/caf\xc3\xa9"}'))
        time = chance.choice((self.iso_text, self.epoch_number))
        return lambda number: metric(number, time(), kind=kind, value=chance.randrange(10**6) / 100)[:-1] + rest

    def odd_producer(self) -> Callable[[int], bytes]:
        """Makes items of one shape, which may be any."""
        shape = self.shape()
        return lambda number: self.filled(shape)

    def shape(self) -> list[tuple[str, Callable[[], str]]]:
        """Field names, each with what makes its JSON text, in the order they are written."""
        chance = self.chance
        fields: list[tuple[str, Callable[[], str]]] = [
            ("timestamp", chance.choice((self.iso_text, self.iso_text, self.epoch_number, self.any_time))),
            ("metric_type", chance.choice((lambda: '"duration"', self.string))),
            ("value", chance.choice((self.plain_number, self.plain_number, self.number))),
        ]
        fields += [(name, self.scalar_maker()) for name in chance.sample(OPTIONAL, chance.randint(0, 5))]
        if chance.random() < 0.3:
            fields.append((chance.choice(NAMES), self.scalar_maker()))
        if chance.random() < 0.4:
            fields.append(("tags", self.tags_maker()))
        if chance.random() < 0.5:
            chance.shuffle(fields)
        if chance.random() < 0.1:
            fields.append(chance.choice(fields))
        return fields

    def filled(self, shape: list[tuple[str, Callable[[], str]]]) -> bytes:
        """An item of the shape."""
        space = self.chance.choice(("", "", "", "", "", " ", "\n", "\t ")) if self.chance.random() < 0.2 else ""
        body = f",{space}".join(f"{self.quoted(name)}:{space}{make()}" for name, make in shape)
        return f"{space}{{{body}}}{space}".encode()

    def mangled(self, item: bytes) -> bytes:
        """The item, made wrong or at least strange."""
        chance = self.chance
        at = chance.randrange(len(item) + 1)
        until = min(len(item), at + chance.randint(1, 8))
        match chance.randrange(14):
            case 0:
                return item[:at]
            case 1:
                return item[at:]
            case 2:
                return item[:at] + item[until:]
            case 3:
                return item[:at] + chance.randbytes(chance.randint(1, 4)) + item[until:]
            case 4:
                strange = (
                    b"\\",
                    b'"',
                    b'\\"',
                    b"\\u0000",
                    b"\\ud800",
                    b"\x00",
                    b"\n",
                    b"\xff",
                    b"\xc3",
                    b"{",
                    b"}",
                    b",",
                    b":",
                )
                return item[:at] + chance.choice(strange) + item[at:]
            case 5:
                old, new = chance.choice(
                    ((b":", b" : "), (b",", b",,"), (b'"', b"'"), (b"e", b"\xc3\xa9"), (b"1", b"01"))
                )
                return item.replace(old, new)
            case 6:
                return item.replace(b'"value":', b'"value":' + chance.choice(NOT_VALUES).encode() + b',"was":', 1)
            case 7:
                depth = chance.choice((2, 29, 30, 31, 32, 33, 40, 2000))
                return item[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"
            case 8:
                return item[:-1] + b',"big":"' + b"x" * chance.choice((100, 1_500, 3_000)) + b'"}'
            case 9:
                return item[:-1] + b"," + item[1:]
            case 10:
                return chance.choice(
                    (b"", b" ", b"null", b"[]", b"{}", b"7", b'"text"', b"\xef\xbb\xbf" + item, b"\x00")
                )
            case 11:
                return b"[" + item + b"]"
            case 12:
                return json.dumps(item.decode(errors="replace")).encode()
            case _:
                flipped = bytearray(item or b"{")
                flipped[at % len(flipped)] ^= 1 << chance.randrange(8)
                return bytes(flipped)

    def reworded(self, item: bytes) -> bytes:
        """The item with another text for one of its values: it keeps its shape, at least at first sight."""
        chance = self.chance
        values = list(_VALUE.finditer(item))
        if not values:
            return item
        found = chance.choice(values)
        old = found[1]
        at = chance.randrange(1, len(old)) if len(old) > 1 else 0
        match chance.randrange(4):
            case 0:
                new = old[:at] + chance.choice(STRANGE_BYTES) + old[at:]
            case 1 if not old.startswith(b'"'):
                new = chance.choice((b"0", b"-", b"-0", b"1.")) + old
            case 1 | 2 if old.startswith(b'"'):
                new = b'"%s"' % chance.choice(chance.choice((TEXTS_OF_TIMES, TEXTS))).encode()
            case 2:
                makers = (self.long_number, self.long_number, self.number, lambda: chance.choice(NOT_NUMBERS))
                new = chance.choice(makers)().encode()
            case _:
                new = chance.choice((self.string, self.any_value, self.any_time))().encode()
        return item[: found.start(1)] + new + item[found.end(1) :]

    def scarred(self, item: bytes, other: bytes) -> bytes:
        """The item after an accident to its bytes; ``other`` is what it may have got mixed up with."""
        chance = self.chance
        at = chance.randrange(len(item) + 1)
        until = min(len(item), at + chance.choice((1, 1, 2, 8, 40)))
        match chance.randrange(9):
            case 0:
                flipped = bytearray(item or b"{")
                for _ in range(chance.choice((1, 1, 2, 5))):
                    flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
                return bytes(flipped)
            case 1:
                return item[:at] + chance.choice(STRANGE_BYTES) + item[at:]
            case 2:
                return item[:at] + chance.randbytes(chance.randint(1, 8)) + item[until:]
            case 3:
                return item[:at] + item[until:]
            case 4:
                return item[:until] + item[at:until] * chance.choice((1, 1, 2, 10)) + item[until:]
            case 5:
                return item[:at] + other[chance.randrange(len(other) + 1) :]
            case 6:
                return item[:at] + other[at:until] + item[until:]
            case 7:
                # Two fields, or two values under each other's names.
                mark = chance.choice((b",", b":", b'"'))
                pieces = item.split(mark)
                one, two = chance.randrange(len(pieces)), chance.randrange(len(pieces))
                pieces[one], pieces[two] = pieces[two], pieces[one]
                return mark.join(pieces)
            case _:
                mark = chance.choice((b",", b"{", b"}", b":"))
                return item.replace(mark, mark + chance.choice(COMMENTS), chance.choice((1, -1)))

    def disguised(self, item: bytes) -> bytes:
        """What the item says, written in a way that a reader might take for JSON."""
        chance = self.chance
        text = item.decode("utf-8", "replace")
        match chance.randrange(16):
            case 14:
                names = [f"n{number}" for number in range(chance.choice((1, 9, 30, 62, 63, 64, 65, 200)))]
                names += chance.sample(names, chance.randint(0, 1))
                more = ",".join(f'"{name}":{chance.randrange(9)}' for name in names).encode()
                return item[:-1] + chance.choice((b",%s}", b',"tags":{%s}}', b',"page":"p","tags":{"n1":1},%s}')) % more
            case 15:
                # Almost a known name.
                name = chance.choice((*OPTIONAL, "metric_type", "timestamp", "value", "tags"))
                at = chance.randrange(len(name) + 1)
                almost = (
                    name[:at]
                    + chance.choice(("", "x", "_", " ", "\\u0061", "X" * 20))
                    + name[at + chance.randint(0, 1) :]
                )
                if chance.random() < 0.5:
                    return item.replace(b'"%s"' % name.encode(), b'"%s"' % almost.encode())
                return item[:-1] + b',"%s":%s}' % (almost.encode(), chance.choice((b"1", b'"x"', b"null", b"{}")))
            case 0:
                return text.encode(chance.choice(("utf-16", "utf-16-le", "utf-32-be", "cp037", "utf-7")), "replace")
            case 1:
                return text.replace("e", "é").encode(chance.choice(("latin-1", "cp1250", "utf-8")), "replace")
            case 2:
                return chance.choice((b"\xef\xbb\xbf", b"\xfe\xff", b")]}',\n", b"\x1e", b"data: ", b"\x00")) + item
            case 3:
                return item + chance.choice((b"\n", b"\r\n", b" ", b"\x00", b";", b",", b"\xef\xbb\xbf", b"\x0c"))
            case 4:
                gap = chance.choice((b"\n  ", b"\r\n\t", b" ", b"\x0b", b"\xc2\xa0", b"\xe2\x80\xa8"))
                return item.replace(b",", b"," + gap).replace(b"{", b"{" + gap).replace(b":", b": ")
            case 5:
                return chance.choice((zlib.compress, base64.b64encode, lambda sent: sent.hex().encode()))(item)
            case 6:
                return chance.choice((b"%r" % [text], repr(text).encode(), text.replace('"', "'").encode()))
            case 7:
                return item.replace(b"}", b",}").replace(b"]", b",]")
            case 8:
                return chance.randbytes(chance.choice((0, 1, 7, 200)))
            case 9:
                brackets = chance.choice((b"[", b'{"a":', b'[{"a":', b"{", b'"['))
                times = chance.choice((3, 31, 32, 33, 500, 10_000))
                ends = brackets.translate(bytes.maketrans(b"[{", b"]}"), b'":a')[::-1]
                place = chance.choice((b'"deep":', b'"tags":', b'"value":', b'"page":'))
                return item[:-1] + b"," + place + brackets * times + b"1" + ends * times + b"}"
            case 10:
                place = chance.choice([b"page", b"try", b"tags", *_KEY.findall(item)])
                wrong = chance.choice(NOT_VALUES).encode()
                return item[:-1] + b',"%s":%s}' % (place, chance.choice((b"%s", b'{"a":%s}', b"[%s]")) % wrong)
            case 11:
                # Sizes about the limit: to the byte, most often by far less.
                size = chance.choice((1_000, 2_000, 65_535, 65_536, 65_537)) if chance.random() < 0.1 else 300
                filling = size - len(item) - len(b',"big":""')
                return item[:-1] + b',"big":"' + b"x" * filling + b'"}'
            case 12:
                names = chance.choice(
                    (
                        (b"value", b"page"),
                        (b"timestamp", b"value"),
                        (b"page", b"page "),
                        (b"a", b"A"),
                        (b"tags", b"tag"),
                    )
                )
                return item[:-1] + b"," + item[1:].replace(*names)
            case _:
                return chance.choice((b"[%s,%s]", b"%s\n%s", b"%s%s", b"%s,%s", b'{"item":%s,"next":%s}')) % (
                    item,
                    item,
                )

    def with_torn_borders(self, items: list[bytes]) -> list[bytes]:
        """Neighbours that would mean something else if they were simply joined."""
        chance = self.chance
        torn = list(items)
        at = chance.randrange(len(torn))
        item = torn[at]
        middle = chance.randrange(len(item) + 1)
        match chance.randrange(5):
            case 0:
                torn[at : at + 1] = [item[:middle], item[middle:]]
            case 1:
                torn[at : at + 1] = [item + b"," + item]
            case 2:
                torn[at : at + 1] = [item + b"\n" + item, b""]
            case 3:
                half = "é".encode()
                torn[at : at + 1] = [item + half[:1], half[1:] + item]
            case _:
                torn[at : at + 1] = [item[:-1] + b',"x":"', b'"}' + item, item + b"\\"]
        return torn

    # Texts of single values

    def scalar_maker(self) -> Callable[[], str]:
        """Usually the same type in every row of a shape, as producers do."""
        makers = (self.string, self.string, self.string, self.plain_number, self.number, self.literal, self.any_value)
        return self.chance.choice(makers)

    def tags_maker(self) -> Callable[[], str]:
        names = self.chance.sample(NAMES, self.chance.randint(0, 3))
        makers = [(self.quoted(name), self.scalar_maker()) for name in names]
        if self.chance.random() < 0.1:
            return self.any_value
        return lambda: "{" + ",".join(f"{name}:{make()}" for name, make in makers) + "}"

    def any_value(self) -> str:
        makers = (self.string, self.number, self.literal, self.nested, lambda: self.chance.choice(NOT_VALUES))
        return self.chance.choice(makers)()

    def string(self) -> str:
        return self.quoted(self.chance.choice(TEXTS))

    def quoted(self, text: str) -> str:
        if self.chance.random() < 0.03:
            return '"' + "".join(f"\\u{ord(one):04x}" for one in text if ord(one) < 0x10000) + '"'
        return json.dumps(text, ensure_ascii=self.chance.random() < 0.3)

    def literal(self) -> str:
        return self.chance.choice(("true", "false", "null"))

    def nested(self) -> str:
        return json.dumps(
            self.chance.choice(({}, [], {"a": 1}, [1, [2, {"b": "\ud83e\udd86"}]], {"a": {"a": None}}, [1.5e300]))
        )

    def plain_number(self) -> str:
        return f"{self.chance.randrange(10**6) / 100:g}"

    def number(self) -> str:
        return self.chance.choice(NUMBERS)

    def long_number(self) -> str:
        """As many digits as a float tells apart, a few less and a few more: where reading fast and exactly part."""
        chance = self.chance
        whole, decimals = (str(chance.randrange(10 ** chance.randint(1, 20))) for _ in range(2))
        sign, exponent = chance.choice(("", "", "-")), chance.choice(("", "", f"e{chance.randint(-330, 310)}"))
        return f"{sign}{whole}{chance.choice(('', '.' + decimals, '.' + decimals.zfill(20)))}{exponent}"

    # Times

    def moment_ms(self) -> int:
        chance = self.chance
        edges = (-720 * 3_600_000 - 1, -720 * 3_600_000, 300_000, 300_001, 0, -721 * 3_600_000, 310_000)
        return self.now_ms + (chance.choice(edges) if chance.random() < 0.05 else -chance.randrange(1_800_000))

    def iso_text(self) -> str:
        return f'"{iso(self.moment_ms())}"'

    def epoch_number(self) -> str:
        return str(self.moment_ms())

    def any_time(self) -> str:
        chance = self.chance
        moment_ms = self.moment_ms()
        match chance.randrange(6):
            case 0:
                return f'"{iso(moment_ms, digits=chance.randrange(10))}"'
            case 1:
                return f'"{iso(moment_ms, offset_min=chance.choice((0, 60, -330, 845, -1439)))}"'
            case 2:
                return f"{moment_ms // 1000}.{chance.choice(('5', '999', '9999', '0', '1239999999999999999999999999'))}"
            case 3:
                return f"{moment_ms}{chance.choice(('', '.0', '.9', 'e0', 'e-3', 'e3'))}"
            case 4:
                text = iso(moment_ms, digits=chance.choice((0, 3, 6)))
                at = chance.randrange(len(text))
                return f'"{text[:at]}{chance.choice("0123456789-+:.TZtz éx")}{text[at + chance.randrange(2) :]}"'
            case _:
                wrong = (
                    "2023-11-14",
                    "2023-02-30T00:00:00Z",
                    "2023-11-14T24:00:00Z",
                    "2023-11-14T22:13:20",
                    "now",
                    "",
                    "0",
                )
                return json.dumps(chance.choice(wrong))

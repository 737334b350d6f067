"""Times as reports write them: ISO-8601 with and without zone, mail dates, JavaScript's, C's, epoch numbers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.client.importers.report import Context

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_NEVER_SET = (datetime(1, 1, 1), datetime(1601, 1, 1), datetime(1970, 1, 1))
"""What the zero of .NET, Go and Python, of Windows and of Unix looks like, to a day, whatever the zone."""
_SECONDS_BELOW = 100_000_000_000

_NUMBER = re.compile(r"-?\d{1,17}(?:\.\d+)?")
_ISO = re.compile(
    r"(\d{4})([-/]?)(\d{2})\2(\d{2})(?:(?:[Tt] ?| )(\d{2})(:?)(\d{2})(?:\6(\d{2})(?:[.,](\d+))?)?)?"
    r" ?([Zz]|[+-]\d{2}(?::?\d{2})?)?(?: ?(?:UTC|GMT|[A-Z]{3,4}))?(?:\[[^\]]*\])?"
)
_C = re.compile(r"[A-Za-z]{3} ([A-Za-z]{3}) +(\d{1,2}) (\d{2}:\d{2}:\d{2}) (?:([A-Z]{3,4}|[+-]\d{4}) )?(\d{4})")
_JAVASCRIPT = re.compile(
    r"[A-Za-z]{3} ([A-Za-z]{3}) (\d{1,2}) (\d{4}) (\d{2}:\d{2}:\d{2})(?: (?:GMT|UTC)([+-]\d{4})?)?(?: \([^)]*\))?"
)


def zone_named(name: str) -> tzinfo | None:
    """The zone of ``--timezone``: ``local``, ``UTC`` or a name such as ``Europe/Paris``; None where there is none."""
    if name == "local":
        return datetime.now().astimezone().tzinfo
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def when(text: str, place: str, context: Context) -> int | None:
    """Epoch milliseconds of a time in a report; None where there is none that can be read, which is warned of.

    A time without zone is in the context's zone. Without one it is UTC; where that lies in the future, it is the local
    time of this machine, and where that does too, the time of import. So it is for any other time ahead or before 1970.
    """
    text = text.strip()
    if not text:
        return None
    moment = _moment(text)
    if moment is None:
        context.warnings.add("this time cannot be read; the time of import is used", place, text)
        return None
    if any(abs(moment.replace(tzinfo=None) - zero) < _DAY for zero in _NEVER_SET):
        return None
    if moment.tzinfo is None:
        moment = _in_a_zone(moment, place, context)
        if moment is None:
            return None
    # Not by timestamp(): its float lands below the millisecond it means.
    found = (moment - _EPOCH) // timedelta(milliseconds=1)
    if found < 0 or found > context.now_ms + context.future_ms:
        context.warnings.add("this time lies ahead or before 1970; the time of import is used", place, text)
        return None
    return found


def _in_a_zone(moment: datetime, place: str, context: Context) -> datetime | None:
    if context.zone is not None:
        return moment.replace(tzinfo=context.zone)
    latest = _EPOCH + timedelta(milliseconds=context.now_ms + context.future_ms)
    if moment.replace(tzinfo=UTC) <= latest:
        return moment.replace(tzinfo=UTC)
    if moment.astimezone() <= latest:
        context.warnings.add("this time names no zone and lies ahead in UTC; read as local time", place, moment)
        return moment.astimezone()
    context.warnings.add(
        "this time names no zone and lies ahead; the time of import is used (--timezone says which zone it is)",
        place,
        moment,
    )
    return None


def _moment(text: str) -> datetime | None:
    try:
        if _NUMBER.fullmatch(text) and not re.fullmatch(r"\d{8}", text):
            number = float(text)
            return _EPOCH + timedelta(milliseconds=number * 1000 if number < _SECONDS_BELOW else number)
        return _iso(text) or _of_c(text) or _mail(text)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _iso(text: str) -> datetime | None:
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    year, _, month, day, hour, _, minute, second, fraction, zone = found.groups()
    microseconds = int((fraction or "0")[:6].ljust(6, "0"))
    moment = datetime(
        *(int(year), int(month), int(day)), *(int(hour or 0), int(minute or 0), int(second or 0)), microseconds
    )
    names_utc = zone in ("Z", "z") or (zone is None and text.endswith(("UTC", "GMT")))
    if names_utc:
        return moment.replace(tzinfo=UTC)
    if zone is None:
        return moment
    digits = zone[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return (moment - (offset if zone[0] == "+" else -offset)).replace(tzinfo=UTC)


def _of_c(text: str) -> datetime | None:
    """``Fri Nov 27 20:56:10 UTC 2026`` and ``Fri Nov 27 2026 20:56:10 GMT+0000 (UTC)``."""
    found = _C.fullmatch(text)
    if found:
        month, day, clock, zone, year = found.groups()
    else:
        found = _JAVASCRIPT.fullmatch(text)
        if found is None:
            return None
        month, day, year, clock, zone = found.groups()
        zone = zone or ("GMT" if "GMT" in text or "UTC" in text else None)
    return _mail(f"{day} {month} {year} {clock}" + (f" {zone}" if zone else ""))


def _mail(text: str) -> datetime | None:
    """``Fri, 27 Nov 2026 20:56:10 GMT``, with or without the day's name."""
    if not re.match(r"(?:[A-Za-z]{3,9}, )?\d{1,2}[ -][A-Za-z]{3}[ -]\d{4} \d", text):
        return None
    moment = parsedate_to_datetime(text.replace("-", " ", 2) if text[:11].count("-") == 2 else text)
    # "-0000" and no zone at all come without one.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None and re.search(r"GMT|UTC|-0000", text) else moment

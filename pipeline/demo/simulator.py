"""A browser-test platform that does not exist: the producers of the demo.

Eight suites of about 150 tests run in four browsers and three environments; pages report Web Vitals, endpoints
their response times, nodes their load. Durations and vitals are log-normal and differ by test, page and
browser, as measurements do; some tests fail, a few by running into their timeout. A small share arrives late,
a smaller one is malformed in every way the pipeline must refuse. In a regression one suite becomes slow and
fails more often, and one page of it paints late in one browser.

One environment is that of a CI: every two minutes a run with a job for each browser, in which each test is executed
once, and once more where it failed. At a low rate a run has fewer tests.

Pure: what a span of time brings depends on the seed, the span, the rate and the regressions alone. 100,000
metrics take 0.15 s of one core.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LATE_SHARE = 0.005
LATE_BY_MS = (60_000, 20 * 60_000)
MALFORMED_SHARE = 0.002

REGRESSED_SUITE = "checkout"
REGRESSED_PAGE = "/checkout"
REGRESSED_BROWSER = "chromium"
DURATION_FACTOR = 1.8
LCP_FACTOR = 1.7
REGRESSED_FAILURE_SHARE = 0.15

CI_ENVIRONMENT = "testing"
RUN_EVERY_MS = 120_000
"""The CI of that environment begins a run every two minutes."""
_RUN_TAKES = 0.75
"""Part of that time in which tests of a run begin; the rest is for those that are tried again."""
_RETRY_FAILS = 0.5
"""Share of retries that fail whatever the test is like: a defect stays."""

TIMEOUT_MS = 30_000.0
_TIMEOUT_SHARE_OF_FAILURES = 0.1
_SKIPPED_SHARE = 0.01
_CLS_ZERO_SHARE = 0.4
_WORKERS = 8


@dataclass(frozen=True)
class _Suite:
    name: str
    subjects: tuple[str, ...]
    pages: tuple[str, ...]
    endpoint: str
    typical_ms: float
    failure_share: float


_SUITES = (
    _Suite("auth", ("login", "logout", "signup", "password reset"), ("/login", "/signup"), "/api/session", 800, 0.010),
    _Suite("catalog", ("home", "category", "product", "gallery"), ("/", "/product"), "/api/products", 700, 0.006),
    _Suite("search", ("suggestions", "results", "filters"), ("/search",), "/api/search", 600, 0.008),
    _Suite("checkout", ("cart", "address", "payment", "receipt"), ("/cart", "/checkout"), "/api/orders", 1250, 0.015),
    _Suite("account", ("profile", "orders", "addresses", "privacy"), ("/account",), "/api/account", 900, 0.008),
    _Suite("messaging", ("inbox", "thread", "attachments"), ("/inbox",), "/api/messages", 800, 0.012),
    _Suite("reports", ("sales", "exports", "schedules"), ("/reports",), "/api/reports", 1050, 0.025),
    _Suite("admin", ("users", "roles", "audit log", "settings"), ("/admin",), "/api/admin", 1000, 0.010),
)
_SITUATIONS = ("works", "after a reload", "by keyboard only", "on a slow network", "with a wide screen")

# Share of the traffic, and how much slower than the fastest; as these browsers call themselves in Playwright.
_BROWSERS = {"chromium": (0.45, 1.00), "firefox": (0.20, 1.12), "webkit": (0.20, 1.18), "msedge": (0.15, 1.03)}
_ENVIRONMENTS = {"staging": (0.60, 1.0), "testing": (0.30, 1.1), "production": (0.10, 0.9)}
_NODES = ("worker-node-1", "worker-node-2", "worker-node-3")

# Median, spread (sigma of the logarithm), share of all metrics.
_DURATION_SHARE, _DURATION_SIGMA = 0.46, 0.18
_VITALS = {
    "lcp": (1700.0, 0.30, 0.10),
    "inp": (140.0, 0.45, 0.09),
    "cls": (0.06, 0.80, 0.09),
    "fcp": (1050.0, 0.28, 0.09),
    "ttfb": (380.0, 0.40, 0.09),
    "fid": (30.0, 0.60, 0.005),
}
# Safari has no layout shifts to report, and only Chrome still sends FID.
_UNSUPPORTED = {("cls", "webkit"), ("fid", "webkit"), ("fid", "firefox"), ("fid", "msedge")}
_RESPONSE_TIME = (90.0, 0.5, 0.055)
_CPU_USAGE = (45.0, 0.25, 0.03)

_STATUSES = ("passed", "failed", "skipped", "retried", "flaky")
_PASSED, _FAILED, _SKIPPED, _RETRIED, _FLAKY = range(len(_STATUSES))
_ERRORS = ("AssertionError", "ElementNotFoundError")
"""Why a test fails, by test; one that ran into its timeout has TimeoutError."""


@dataclass(frozen=True)
class SimulatedBatch:
    """What a span of time brought, in the order it is pushed, and what the pipeline should make of it."""

    items: list[bytes]
    valid: int
    late: int
    """Of the valid ones: how many carry a timestamp before the span."""
    refused: Counter[str]
    """The others, by the reason with which ``metric.decode`` must refuse them."""


@dataclass
class SimulatedPlatform:
    """The simulated platform. ``regressions``: spans [from, to) in epoch milliseconds; more may be appended."""

    seed: int = 1
    regressions: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._series = _all_series(np.random.default_rng(self.seed))

    def metrics(self, from_ms: int, to_ms: int, rate: float) -> list[bytes]:
        """The items of ``batch``."""
        return self.batch(from_ms, to_ms, rate).items

    def batch(self, from_ms: int, to_ms: int, rate: float) -> SimulatedBatch:
        """What the platform pushes from ``from_ms`` until before ``to_ms``, at ``rate`` metrics a second.

        Adjacent spans together bring as many items as the span they form.
        """
        count = int(to_ms * rate / 1000) - int(from_ms * rate / 1000)
        chance = np.random.default_rng([self.seed, from_ms, to_ms])
        runs = self._ci_runs(from_ms, to_ms, rate).where(slice(count))
        others = self._others(from_ms, to_ms, count - len(runs.at_ms), chance)
        late = chance.random(len(others.at_ms)) < LATE_SHARE
        timestamps = others.at_ms - late * chance.integers(*LATE_BY_MS, len(late))
        # What is late comes between those of its time; a run's own items are never late.
        order = np.argsort(np.concatenate([runs.at_ms, others.at_ms]), kind="stable")
        late = np.concatenate([np.zeros(len(runs.at_ms), bool), timestamps < from_ms])[order]
        attempts = _joined([runs, replace(others, at_ms=timestamps)]).where(order)
        items = self._format(attempts, chance)

        refused: Counter[str] = Counter()
        for index in np.flatnonzero(chance.random(count) < MALFORMED_SHARE).tolist():
            kind = MALFORMED[int(chance.integers(len(MALFORMED)))]
            items[index] = kind.spoil(items[index])
            refused[kind.reason] += 1
            late[index] = False
        return SimulatedBatch(items, count - refused.total(), int(late.sum()), refused)

    def _others(self, from_ms: int, to_ms: int, count: int, chance: np.random.Generator) -> _Attempts:
        """What is measured beside the CI, at random."""
        at_ms = np.sort(chance.integers(from_ms, to_ms, count))
        which = np.searchsorted(self._series.cumulative_share, chance.random(count), side="right")
        values, statuses = self._draw(which, self._in_regression(at_ms), chance)
        return _Attempts(at_ms, which, values, statuses, run=np.full(count, -1), number=np.zeros(count, dtype=np.int64))

    def _ci_runs(self, from_ms: int, to_ms: int, rate: float) -> _Attempts:
        """The attempts that the CI's runs make in a span of time; each run depends on its number and the rate alone."""
        runs = range(from_ms // RUN_EVERY_MS, (to_ms - 1) // RUN_EVERY_MS + 1)
        found = _joined([self._ci_run(run, rate) for run in runs])
        return found.where((found.at_ms >= from_ms) & (found.at_ms < to_ms))

    def _ci_run(self, run: int, rate: float) -> _Attempts:
        """Each test once, spread over the run, and once more where it failed."""
        series, chance = self._series, np.random.default_rng([self.seed, run])
        which = chance.permutation(series.in_run[: int(rate * RUN_EVERY_MS / 1000 * series.run_share)])
        starts = run * RUN_EVERY_MS + (_RUN_TAKES * RUN_EVERY_MS * np.arange(len(which)) / max(1, len(which))).astype(
            np.int64
        )
        regressed = self._in_regression(starts)
        values, statuses = self._draw(which, regressed, chance)
        again = np.flatnonzero(statuses == _FAILED)
        second, outcomes = self._draw(which[again], regressed[again], chance, skipped_share=0)
        fails = (outcomes == _FAILED) | (chance.random(len(again)) < _RETRY_FAILS)
        ends = np.minimum(starts[again] + values[again].astype(np.int64), (run + 1) * RUN_EVERY_MS - 1)
        statuses[again] = _RETRIED
        first = _Attempts(
            starts, which, values, statuses, np.full(len(which), run), np.ones(len(which), dtype=np.int64)
        )
        retries = _Attempts(
            ends,
            which[again],
            second,
            np.where(fails, _FAILED, _FLAKY),
            np.full(len(again), run),
            np.full(len(again), 2),
        )
        both = _joined([first, retries])
        return both.where(np.argsort(both.at_ms, kind="stable"))

    def _format(self, attempts: _Attempts, chance: np.random.Generator) -> list[bytes]:
        texts = self._series.texts
        times = np.datetime_as_string(attempts.at_ms.astype("datetime64[ms]"), timezone="UTC").astype("S").tolist()
        heads = [b""] * len(times)
        failed = (attempts.status == _FAILED) | (attempts.status == _RETRIED)
        for place in np.flatnonzero(failed | (attempts.run >= 0)).tolist():
            heads[place] = self._head(attempts, place)
        return [
            texts[text] % (time, head, value, worker)
            for text, time, head, value, worker in zip(
                (attempts.which * len(_STATUSES) + attempts.status).tolist(),
                times,
                heads,
                attempts.value.tolist(),
                chance.integers(_WORKERS, size=len(times)).tolist(),
                strict=True,
            )
        ]

    def _head(self, attempts: _Attempts, place: int) -> bytes:
        """What an item of a run has beside its template, and why a test failed."""
        which, run, number = (int(one[place]) for one in (attempts.which, attempts.run, attempts.number))
        head = _run_fields(run) + b'"job":"%b","attempt":%d,' % (self._series.jobs[which], number) if run >= 0 else b""
        if attempts.status[place] in (_FAILED, _RETRIED):
            timed_out = attempts.value[place] >= TIMEOUT_MS
            head += f'"error_type":"{"TimeoutError" if timed_out else _ERRORS[which % len(_ERRORS)]}",'.encode()
        return head

    def _draw(
        self,
        which: Ints,
        regressed: npt.NDArray[np.bool_],
        chance: np.random.Generator,
        skipped_share: float = _SKIPPED_SHARE,
    ) -> tuple[Floats, Ints]:
        """Values and statuses (as places in ``_STATUSES``) of executions and measurements of the series ``which``."""
        series = self._series
        count = len(which)
        values = np.exp(series.log_median[which] + series.sigma[which] * chance.standard_normal(count))
        values *= np.where(regressed, series.regression_factor[which], 1.0)

        is_test = series.is_test[which]
        failure_share = np.where(
            regressed & (series.regression_factor[which] == DURATION_FACTOR),
            REGRESSED_FAILURE_SHARE,
            series.failure_share[which],
        )
        draw = chance.random(count)
        failed = is_test & (draw < failure_share)
        skipped = is_test & (draw > 1 - skipped_share)
        timed_out = failed & (chance.random(count) < _TIMEOUT_SHARE_OF_FAILURES)
        values = np.where(timed_out, TIMEOUT_MS + values / 100, np.where(skipped, 0.0, values))

        is_cls = series.is_cls[which]
        values = np.where(is_cls & (chance.random(count) < _CLS_ZERO_SHARE), 0.0, values)
        values = np.where(is_cls, np.round(values, 4), np.round(values, 1))
        return values, _FAILED * failed + _SKIPPED * skipped

    def _in_regression(self, timestamps: Ints) -> npt.NDArray[np.bool_]:
        inside = np.zeros(len(timestamps), dtype=bool)
        for from_ms, to_ms in self.regressions:
            inside |= (timestamps >= from_ms) & (timestamps < to_ms)
        return inside


@dataclass(frozen=True)
class _Attempts:
    """What was measured: when, of which series, with what value and status; of a CI's run also its number and whether
    it is the first or second attempt (else -1 and 0)."""

    at_ms: Ints
    which: Ints
    value: Floats
    status: Ints
    run: Ints
    number: Ints

    def where(self, chosen: slice | npt.NDArray[Any]) -> _Attempts:
        """Some of them, or all in another order."""
        return _Attempts(*(getattr(self, one.name)[chosen] for one in fields(self)))


def _joined(parts: Sequence[_Attempts]) -> _Attempts:
    return _Attempts(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(_Attempts)))


@dataclass(frozen=True)
class _Series:
    """All series of the platform, one row each; ``texts`` has one item template per series and status."""

    cumulative_share: Floats
    """Of what is not the CI's."""
    log_median: Floats
    sigma: Floats
    failure_share: Floats
    regression_factor: Floats
    is_test: npt.NDArray[np.bool_]
    is_cls: npt.NDArray[np.bool_]
    in_run: Ints
    """The CI's tests, in an order in which each beginning is a mixture."""
    run_share: float
    """The CI's part of all metrics, where the rate allows no more."""
    jobs: list[bytes]
    """The job of each series in a run: one a browser."""
    texts: list[bytes]


@dataclass(frozen=True)
class _Row:
    fields: dict[str, str]
    share: float
    median: float
    sigma: float
    failure_share: float = 0.0
    regression_factor: float = 1.0


def _all_series(chance: np.random.Generator) -> _Series:
    rows = [*_test_rows(chance), *_vital_rows(chance), *_other_rows(chance)]
    shares = np.array([row.share for row in rows])
    in_run = np.array([_is_in_run(row.fields) for row in rows])
    cumulative = np.cumsum(np.where(in_run, 0.0, shares))
    return _Series(
        # The last bound is infinite, because the sum of the shares may round to just below 1.
        cumulative_share=np.append((cumulative / cumulative[-1])[:-1], np.inf),
        log_median=np.log([row.median for row in rows]),
        sigma=np.array([row.sigma for row in rows]),
        failure_share=np.array([row.failure_share for row in rows]),
        regression_factor=np.array([row.regression_factor for row in rows]),
        is_test=np.array([row.fields["metric_type"] == "duration" for row in rows]),
        is_cls=np.array([row.fields["metric_type"] == "cls" for row in rows]),
        in_run=chance.permutation(np.flatnonzero(in_run)),
        run_share=float(shares[in_run].sum() / shares.sum()),
        jobs=[f"e2e-{row.fields.get('browser', '')}".encode() for row in rows],
        texts=[_text(row.fields, status) for row in rows for status in _STATUSES],
    )


def _is_in_run(fields: dict[str, str]) -> bool:
    """Whether it is a test that the CI runs; those in other environments watch the platform round the clock."""
    return fields["metric_type"] == "duration" and fields["environment"] == CI_ENVIRONMENT


@cache
def _run_fields(number: int) -> bytes:
    """The CI run that is the n-th since the epoch, as the head of an item has it."""
    commit = hashlib.sha1(b"%d" % number, usedforsecurity=False).hexdigest()[:12]
    return f'"run_id":"ci-{number}","commit":"{commit}","branch":"main",'.encode()


def _text(fields: dict[str, str], status: str) -> bytes:
    """The item as a template of its time, run, value and worker."""
    if fields["metric_type"] == "duration":
        fields = {**fields, "status": status}
    written = ",".join(f'"{name}":"{text}"' for name, text in fields.items())
    return f'{{"timestamp":"%b",%b{written},"value":%r,"tags":{{"worker":"w%d","branch":"main"}}}}'.encode()


def _places() -> list[tuple[str, str, float, float]]:
    """Browser, environment, share, slowness."""
    return [
        (browser, environment, browser_share * environment_share, browser_slowness * environment_slowness)
        for browser, (browser_share, browser_slowness) in _BROWSERS.items()
        for environment, (environment_share, environment_slowness) in _ENVIRONMENTS.items()
    ]


def _test_rows(chance: np.random.Generator) -> list[_Row]:
    tests = [(suite, *names) for suite in _SUITES for names in itertools.product(suite.subjects, _SITUATIONS)]
    numbers: Counter[str] = Counter()
    rows = []
    for suite, subject, situation in tests:
        numbers[suite.name] += 1
        median = suite.typical_ms * chance.lognormal(0, 0.35)
        identity = {
            "test_id": f"{suite.name}-{numbers[suite.name]:03d}",
            "test_name": f"{subject} {situation}",
            "test_suite": suite.name,
            "metric_type": "duration",
        }
        rows += [
            _Row(
                identity | {"environment": environment, "browser": browser},
                share=_DURATION_SHARE * share / len(tests),
                median=median * slowness,
                sigma=_DURATION_SIGMA,
                failure_share=suite.failure_share,
                regression_factor=DURATION_FACTOR if suite.name == REGRESSED_SUITE else 1.0,
            )
            for browser, environment, share, slowness in _places()
        ]
    return rows


def _vital_rows(chance: np.random.Generator) -> list[_Row]:
    pages = [(suite.name, page, chance.lognormal(0, 0.15)) for suite in _SUITES for page in suite.pages]
    return [
        _Row(
            {
                "test_suite": suite,
                "metric_type": vital,
                "environment": environment,
                "browser": browser,
                "page": page,
            },
            share=vital_share * share / len(pages),
            median=median * heaviness * slowness,
            sigma=sigma,
            regression_factor=LCP_FACTOR
            if (vital, page, browser) == ("lcp", REGRESSED_PAGE, REGRESSED_BROWSER)
            else 1.0,
        )
        for suite, page, heaviness in pages
        for vital, (median, sigma, vital_share) in _VITALS.items()
        for browser, environment, share, slowness in _places()
        if (vital, browser) not in _UNSUPPORTED
    ]


def _other_rows(chance: np.random.Generator) -> list[_Row]:
    median, sigma, share = _RESPONSE_TIME
    rows = [
        _Row(
            {"metric_type": "response_time", "environment": environment, "endpoint": suite.endpoint},
            share=share * environment_share / len(_SUITES),
            median=median * slowness * chance.lognormal(0, 0.4),
            sigma=sigma,
        )
        for suite in _SUITES
        for environment, (environment_share, slowness) in _ENVIRONMENTS.items()
    ]
    median, sigma, share = _CPU_USAGE
    rows += [_Row({"metric_type": "cpu_usage", "node": node}, share / len(_NODES), median, sigma) for node in _NODES]
    return rows


@dataclass(frozen=True)
class Malformed:
    """One way to be wrong: how a good item is spoiled, and the reason it must be refused with."""

    name: str
    reason: str
    spoil: Callable[[bytes], bytes]


def _without(name: bytes) -> Callable[[bytes], bytes]:
    return lambda item: item.replace(b'"' + name + b'":', b'"was_' + name + b'":')


def _with_value(text: bytes) -> Callable[[bytes], bytes]:
    return lambda item: item.replace(b'"value":', b'"value":' + text + b',"was_value":')


def _with_timestamp(text: bytes) -> Callable[[bytes], bytes]:
    return lambda item: item.replace(b'"timestamp":', b'"timestamp":' + text + b',"was_timestamp":')


MALFORMED: Sequence[Malformed] = (
    Malformed("cut off", "not JSON", lambda item: item[: len(item) // 2]),
    Malformed("empty", "not JSON", lambda _: b""),
    Malformed("a log line", "not JSON", lambda item: b"INFO pushed " + item),
    Malformed("a list", "not an object", lambda item: b"[" + item + b"]"),
    Malformed("no timestamp", "missing field", _without(b"timestamp")),
    Malformed("no metric_type", "missing field", _without(b"metric_type")),
    Malformed("no value", "missing field", _without(b"value")),
    Malformed("value as text", "wrong type", _with_value(b'"fast"')),
    Malformed("value null", "missing field", _with_value(b"null")),
    Malformed("value NaN", "not JSON", _with_value(b"NaN")),
    Malformed("value overflows", "not finite", _with_value(b"1e999")),
    Malformed("timestamp in words", "bad timestamp", _with_timestamp(b'"yesterday"')),
    Malformed("timestamp without zone", "bad timestamp", _with_timestamp(b'"2025-01-11T12:00:00"')),
    Malformed("timestamp of a dead clock", "timestamp too old", _with_timestamp(b'"1970-01-01T00:00:00Z"')),
    Malformed("timestamp far ahead", "timestamp too far ahead", _with_timestamp(b'"2199-01-01T00:00:00Z"')),
    Malformed("latin-1", "invalid UTF-8", lambda item: item.replace(b'"main"', b'"K\xfcche"')),
    Malformed("nested too deeply", "too deep", _with_value(b"[" * 40 + b"1" + b"]" * 40)),
    Malformed("too large", "item too large", lambda item: item.replace(b'"main"', b'"' + b"x" * 70_000 + b'"')),
)

"""The change detector: what it finds, what it leaves alone, and its parts against dense linear algebra."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import effort
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.analyse.changes import search as changesearch
from pipeline.analyse.changes.candidates import splits_beside_lines
from pipeline.analyse.changes.confirm import measure
from pipeline.analyse.changes.drift import fit_lines
from pipeline.analyse.changes.models import AUTOCORRELATIONS, around, losses, move
from pipeline.analyse.changes.noise import innovations
from pipeline.analyse.changes.points import (
    LEAST_POINTS,
    PENALTY,
    Changes,
    benjamini_hochberg,
    direction,
    examine,
    find_changes,
    find_changes_in,
    p_value,
)
from pipeline.analyse.changes.series import Block, Floats, fit_level, fit_step, pack, prepare
from pipeline.bench.changes import NOISES, Noise, ar1, detect, figures, null_tail

THREE = ("independent", "autocorrelated", "outliers")


def draw(noise: Noise | str, count: int, levels: Any, seed: int = 0) -> Floats:
    """Series around levels, as the bench draws them."""
    kind = NOISES[noise] if isinstance(noise, str) else noise
    return kind.series(np.random.default_rng(seed), count, np.asarray(levels, dtype=np.float64))


def flat(points: int) -> Floats:
    return np.full(points, 100.0)


def steps(*segments: tuple[int, float]) -> Floats:
    """Levels: so many points at each."""
    return np.concatenate([np.full(points, level) for points, level in segments])


def near(found: Changes, series: int, places: set[int], tolerance: int = 3) -> tuple[float, int]:
    """The share of the changes at ``places`` in each of so many series that were found, and how many others were."""
    expected = [(one, position) for one in range(series) for position in places]
    pairs = list(zip(found.series.tolist(), found.position.tolist(), strict=True))

    def close(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one[0] == other[0] and abs(one[1] - other[1]) <= tolerance

    hits = sum(any(close(pair, true) for pair in pairs) for true in expected)
    return hits / len(expected), sum(not any(close(pair, true) for true in expected) for pair in pairs)


class TestWhatItReaches:
    """The promises, at one setting. Margins are three standard errors of what the full bench measures."""

    @pytest.mark.parametrize("name", effort(THREE[1:2], THREE))
    def test_false_alarms_and_steps_found(self, name: str) -> None:
        """Half a false alarm per 1,000 points at most; nine in ten steps of 15 %, six in ten of 10 %, in place."""
        told = figures(detect, NOISES[name], 150, within=False)
        for points in (60, 120, 400):
            assert told[f"false alarms per 1000, {points} points"] <= 0.7
        for sign in "+-":
            assert told[f"{sign}15% offline"] >= 0.9
            assert told[f"{sign}10% offline"] >= 0.62
            assert told[f"{sign}15% 12 after"] >= 0.83
            assert told[f"{sign}10% 12 after"] >= (0.36 if name == "autocorrelated" else 0.75)

    @pytest.mark.parametrize("autocorrelation", effort([0.0, 0.6], [0.0, 0.3, 0.45, 0.6]))
    def test_p_values_are_honest(self, autocorrelation: float) -> None:
        """Of series without a change at most a share p has one with a p-value up to p."""
        for points, count in ((30, 4000), (90, 1500)):
            found = find_changes(draw(Noise(autocorrelation), count, flat(points), seed=points))
            for p in (0.0005, 0.002, 0.005, 0.01):
                share = len(np.unique(found.series[found.p_value <= p])) / count
                assert share <= p + 3 * np.sqrt(p / count)

    def test_the_tail_in_use_is_what_simulation_gives(self) -> None:
        """Constants that were derived for one length are derived again from fewer series."""
        told = null_tail(45, 4000)
        error = 3 * np.sqrt(told["chance_in_use"] / 4000)
        assert abs(told["chance"] - told["chance_in_use"]) < error

    @pytest.mark.long
    @pytest.mark.parametrize("points", [12, 20, 30, 60, 120, 260, 400])
    def test_the_whole_tail_in_use_is_what_simulation_gives(self, points: int) -> None:
        """At lengths over the whole table, from millions of points."""
        count = min(40_000, 6_000_000 // points)
        told = null_tail(points, count)
        assert told["chance"] == pytest.approx(told["chance_in_use"], rel=0.2)
        little = max(null_tail(points, count // 2, rho)["chance_if_little"] for rho in (0.15, 0.3, 0.45))
        limit = told["chance_if_little_in_use"]
        assert little <= limit + 4 * np.sqrt(limit / (count // 2))

    @pytest.mark.parametrize(
        ("name", "noise"),
        [
            ("two_modes", lambda r, shape: 100 + 20 * (r.random(shape) < 0.5) + 2 * r.standard_normal(shape)),
            ("rare_mode", lambda r, shape: 100 + 20 * (r.random(shape) < 0.15) + 2 * r.standard_normal(shape)),
            ("log_normal", lambda r, shape: 100 * np.exp(0.5 * r.standard_normal(shape))),
            ("cauchy_like", lambda r, shape: 100 + 3 * r.standard_t(2, shape)),
            ("counts", lambda r, shape: r.poisson(3.0, shape).astype(float)),
            ("zeros_and_ones", lambda r, shape: (r.random(shape) < 0.1).astype(float)),
            (
                "daily",
                lambda r, shape: 100 + 6 * np.sin(np.arange(shape[1]) / 24 * 2 * np.pi) + r.standard_normal(shape),
            ),
            ("louder", lambda r, shape: 100 + np.where(np.arange(shape[1]) < 80, 3, 8) * r.standard_normal(shape)),
            ("alternating", lambda r, shape: 100 + 5 * ar1(r, *shape, -0.5)),
            ("pairs_of_outliers", lambda r, shape: _with_pairs(r, 100 + 5 * r.standard_normal(shape))),
        ],
    )
    def test_noise_of_other_kinds_raises_hardly_an_alarm(self, name: str, noise: Any) -> None:
        """Modes, skew, heavy tails, ties, cycles and changing loudness are noise, not changes of level."""
        values = noise(np.random.default_rng(4), (150, 160))
        assert len(find_changes(values)) <= 0.5e-3 * values.size

    def test_a_wander_under_jitter_is_mostly_noise(self) -> None:
        """AR(1) of 0.9 seen through white noise, which no AR(1) describes: two alarms per 1,000 points at most."""
        random = np.random.default_rng(6)
        values = 100 + 3 * ar1(random, 200, 150, 0.9) + 4 * random.standard_normal((200, 150))
        assert len(find_changes(values)) <= 2e-3 * values.size


def _with_pairs(random: np.random.Generator, values: Floats) -> Floats:
    first = random.random(values.shape) < 0.01
    first[:, 1:] |= first[:, :-1]
    return np.where(first, 5 * values, values)


class TestShapes:
    """Series as they come."""

    def test_step_is_measured(self) -> None:
        """Place, levels, size, direction and lengths of a clear step, up and down."""
        for level, pct in ((130.0, 30.0), (70.0, -30.0)):
            found = find_changes_in(draw("independent", 1, steps((50, 100.0), (40, level)))[0])
            assert found.series.tolist() == [0]
            assert found.position.tolist() == [50]
            assert (found.points_before[0], found.points_after[0]) == (50, 40)
            assert found.level_before[0] == pytest.approx(100, rel=0.02)
            assert found.level_after[0] == pytest.approx(level, rel=0.02)
            assert found.change_pct[0] == pytest.approx(pct, abs=3)
            assert found.effect_spreads[0] == pytest.approx(30 / 4.5, rel=0.35)
            assert found.p_value[0] < 1e-6
            assert found.confidence[0] > 0.999999

    @pytest.mark.parametrize(
        "levels",
        [
            steps((60, 100), (12, 125), (60, 100)),
            steps((60, 100), (25, 115), (60, 100)),
            steps((50, 100), (50, 120), (50, 100), (50, 80)),
            steps((40, 100), (40, 115), (40, 132), (40, 152)),
            steps((100, 100), (60, 300), (60, 345)),
            steps((30, 10), (30, 1000), (30, 10), (30, 1000)),
        ],
    )
    def test_several_changes_in_one_series(self, levels: Floats) -> None:
        """There and back, staircases, a small change beside a huge one: nearly all of them, and hardly another."""
        places = set((np.flatnonzero(np.diff(levels)) + 1).tolist())
        found = find_changes(draw("independent", 40, levels))
        share, others = near(found, 40, places)
        assert share >= 0.95
        assert others <= 0.05 * 40 * len(places)

    def test_long_series_with_many_changes(self) -> None:
        """Two dozen changes in 2,000 points, under autocorrelated noise."""
        levels = np.repeat(100 * np.cumprod([1.0, *([1.15, 1.15, 0.8] * 8)]), 80)
        found = find_changes(draw("autocorrelated", 4, levels))
        share, others = near(found, 4, set(range(80, 2000, 80)))
        assert share >= 0.9
        assert others <= 8

    @pytest.mark.parametrize(("name", "least"), [("independent", 0.96), ("autocorrelated", 0.93)])
    def test_eight_changes_in_400_points(self, name: str, least: float) -> None:
        """Up and down by 13 to 25 %, 10 points apart or more: nearly all of them in their place."""
        random = np.random.default_rng(2)
        share, others = 0.0, 0
        for row in range(60):
            places = np.sort(random.choice(np.arange(20, 380, 20), 8, replace=False)) + random.integers(-5, 5, 8)
            levels = np.full(400, 100.0)
            for place in places:
                levels[place:] *= random.choice([0.8, 0.87, 1.15, 1.25])
            found = find_changes(draw(name, 1, levels, row))
            hits, more = near(found, 1, set(places.tolist()))
            share, others = share + hits / 60, others + more
        assert share >= least
        assert others <= 0.4 * 60

    def test_noise_that_grows_with_the_level(self) -> None:
        """Three times the level with three times the noise: the louder part shows hardly a change of its own."""
        found = find_changes(draw("autocorrelated", 100, steps((100, 100.0), (100, 300.0), (100, 350.0))))
        share, others = near(found, 100, {100, 200}, tolerance=8)
        assert share >= 0.95
        assert others <= 0.3 * 100

    def test_a_drift_is_one_finding_and_no_steps(self) -> None:
        """A level that drifts by 20 % is told as a slope with bounds, not as a staircase."""
        found = examine(draw("independent", 30, np.linspace(100, 120, 200)))
        assert len(found.changes) <= 1
        assert len(found.drifts) >= 28
        drifts = found.drifts
        assert np.median(drifts.change_pct) == pytest.approx(20, abs=2)
        holds = (drifts.slope_low * 199 <= 20) & (drifts.slope_high * 199 >= 20)
        assert holds.mean() >= 0.85

    def test_the_bounds_of_a_drift_hold_its_true_slope(self) -> None:
        """In 19 of 20 series, as 95 % say; the slope between medians is less exact than the least squares line."""
        line = np.linspace(100.0, 115.0, 300)
        drifts = examine(line + 2.0 * np.random.default_rng(5).standard_normal((200, 300))).drifts
        assert len(drifts) == 200
        true_pct = 15.0 / 299
        # 200 series at 95 %: 0.91 is 2.6 standard errors below.
        assert np.mean((drifts.slope_low <= true_pct) & (true_pct <= drifts.slope_high)) >= 0.91

    def test_a_step_is_no_drift(self) -> None:
        """A step of 15 % in the middle is told as a step."""
        found = examine(draw("independent", 30, steps((60, 100.0), (60, 115.0))))
        assert len(found.changes) >= 29
        assert len(found.drifts) == 0

    @pytest.mark.parametrize(("drift", "step"), [(15.0, 1.10), (-15.0, 1.10), (30.0, 0.88)])
    def test_a_step_on_a_drift_is_told_beside_it(self, drift: float, step: float) -> None:
        """Once, at its place and with its own size; what is left is a drift with its own slope, and no staircase."""
        share = np.arange(672) / 672
        levels = np.where(share < 0.52, 1.0, step) * 100.0 + drift * share
        found = examine(levels + 5.0 * np.random.default_rng(8).standard_normal((30, 672)))
        at = int(np.argmax(share >= 0.52))
        hits, others = near(found.changes, 30, {at}, tolerance=5)
        assert hits >= 0.9
        assert others <= 4
        here = np.abs(found.changes.position - at) <= 5
        before = 100.0 + 0.52 * drift
        assert np.median(found.changes.level_before[here]) == pytest.approx(before, rel=0.01)
        assert np.median(found.changes.change_pct[here]) == pytest.approx(100 * (100 * step - 100) / before, abs=1)
        assert len(found.drifts) >= 28
        assert np.median(found.drifts.change_pct) == pytest.approx(drift, abs=1.5)
        holds = (found.drifts.slope_low * 672 <= drift) & (found.drifts.slope_high * 672 >= drift)
        assert holds.mean() >= 0.85

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_step_that_a_drift_hides(self, sign: int) -> None:
        """A slow decline and the step that makes up for it seem level: both are told, and neither alone."""
        share = np.arange(240) / 240
        levels = 100.0 + sign * (np.where(share < 0.52, 0.0, 15.0) - 18.0 * share)
        found = examine(levels + 4.0 * np.random.default_rng(8).standard_normal((40, 240)))
        hits, others = near(found.changes, 40, {125}, tolerance=5)
        assert hits >= 0.9
        assert others <= 4
        assert len(found.drifts) >= 36
        assert np.median(found.drifts.change_pct) == pytest.approx(-18 * sign, abs=2)

    def test_two_steps_on_a_drift(self) -> None:
        """As many steps as there are stay beside the line."""
        share = np.arange(672) / 672
        levels = 100.0 * np.where(share < 0.3, 1.0, 1.1) * np.where(share < 0.7, 1.0, 0.9) + 15.0 * share
        found = examine(draw("independent", 30, levels))
        hits, others = near(found.changes, 30, {202, 471}, tolerance=5)
        assert hits >= 0.9
        assert others <= 5
        assert len(found.drifts) >= 27

    @pytest.mark.parametrize(
        "levels",
        [
            steps((300, 100), (300, 112)),
            steps((200, 100), (200, 112), (200, 125)),
            steps((150, 100), (150, 112), (150, 125), (150, 140)),
            steps((200, 100), (200, 115), (200, 100)),
        ],
    )
    def test_steps_alone_are_no_drift(self, levels: Floats) -> None:
        """However many of one direction: flat between them is not on a slope."""
        found = examine(draw("independent", 30, levels))
        hits, _ = near(found.changes, 30, set((np.flatnonzero(np.diff(levels)) + 1).tolist()), tolerance=5)
        assert hits >= 0.95
        assert len(found.drifts) == 0

    def test_a_step_on_a_curve_of_growth_is_not_needed(self) -> None:
        """A smooth curve is not cut into levels."""
        at = np.linspace(0, 1, 300)
        assert len(find_changes(draw("independent", 20, 100 + 60 * at**2))) <= 2

    def test_length_does_not_move_what_was_found(self) -> None:
        """A change has the same place and size whether 1,500 or 4,000 quiet points follow it."""
        values = draw("independent", 1, np.repeat([100.0, 115.0], (900, 4000)))
        found = [find_changes(values[:, :points]) for points in (2400, 3100, 4900)]
        assert [list(one.position) for one in found] == [list(found[0].position)] * 3
        assert [list(one.change_pct) for one in found] == [list(found[0].change_pct)] * 3
        assert abs(int(found[0].position[0]) - 900) <= 3

    def test_length_does_not_hide_short_levels(self) -> None:
        """The same 173 runs again and again, with a level of six runs in them: found at every length."""
        motif = steps((25, 100.0), (39, 107.0), (6, 103.5), (44, 100.0), (59, 108.5))
        places = np.cumsum([25, 39, 6, 44, 59])
        rows, runs = 10, 7
        noise = np.random.default_rng(8).normal(0.0, 0.9, (rows, len(motif)))
        values = np.tile(motif + noise, (1, runs))
        every = (places + len(motif) * np.arange(runs)[:, None]).ravel()
        for points in (200, 346, 400, 692, 800, 1000, 1200):
            found = find_changes(values[:, :points])
            expected = set(every[every <= points - 5].tolist())
            for row in range(rows):
                at = found.position[found.series == row]
                missed = [place for place in expected if np.abs(at - place).min() > 2]
                assert len(missed) <= 1, (points, row, missed)
                assert len(at) <= 1.05 * len(expected)

    def test_constant_series_has_no_change(self) -> None:
        """Equal values have no spread at all."""
        assert not len(find_changes(np.array([[7.0] * 50, [0.0] * 50, [-3.0] * 50, [1e-300] * 50, [1e300] * 50])))

    @pytest.mark.parametrize(
        ("before", "after"), [(50, 100), (0, 5), (5, 0), (-10, 10), (1e-9, 2e-9), (1e300, 1.5e300)]
    )
    def test_step_between_constants(self, before: float, after: float) -> None:
        """Without any spread the smallest one believed stands in; every figure is finite."""
        found = find_changes_in([before] * 15 + [after] * 15)
        assert found.position.tolist() == [15]
        assert (found.level_before[0], found.level_after[0]) == (before, after)
        assert np.isfinite([found.change_pct[0], found.effect_spreads[0], found.p_value[0]]).all()

    def test_few_distinct_values(self) -> None:
        """Counts of 3 and 4: a shift of their mixture is a change, the mixture itself is not."""
        random = np.random.default_rng(3)
        mixed = 3.0 + (random.random((50, 100)) < 0.4)
        shifted = np.concatenate([mixed[:, :50], mixed[:, 50:] + 2], axis=1)
        assert not len(find_changes(mixed))
        share, others = near(find_changes(shifted), 50, {50})
        assert share >= 0.95
        assert not others

    def test_small_change_in_a_quiet_series_is_left_out(self) -> None:
        """However sure: a change below the smallest that matters is none, unless a smaller one is asked for."""
        values = draw(Noise(scale=0.02), 1, steps((60, 100.0), (60, 100.8)))
        assert not len(find_changes(values))
        assert find_changes(values, min_change_pct=0.5).position.tolist() == [60]

    @pytest.mark.parametrize("points", [0, 1, 6, LEAST_POINTS - 1])
    def test_too_short(self, points: int) -> None:
        """A series that cannot have five points on either side has no changes."""
        assert not len(find_changes_in(np.where(np.arange(points) < points // 2, 1.0, 9.0)))

    def test_as_soon_as_there_are_five_points(self) -> None:
        """A change far beyond the noise is found with its fifth point, and not with its third."""
        values = draw("independent", 1, steps((40, 100.0), (5, 200.0)))[0]
        assert find_changes_in(values).position.tolist() == [40]
        assert not len(find_changes_in(values[:43]))

    def test_nothing_to_search(self) -> None:
        """No series, or none with a value."""
        assert not len(find_changes(np.zeros((0, 40))))
        assert not len(find_changes(np.full((3, 40), np.nan)))

    def test_gaps_are_no_points(self) -> None:
        """NaN and infinity may stand anywhere; positions count them, results otherwise do not change."""
        whole = draw("independent", 1, steps((50, 100.0), (40, 130.0)))[0]
        plain = find_changes_in(whole)
        places = np.sort(np.random.default_rng(1).choice(140, 90, replace=False))
        for missing in (np.nan, np.inf, -np.inf):
            holed = np.full(140, missing)
            holed[places] = whole
            found = find_changes_in(holed)
            assert found.position.tolist() == places[plain.position].tolist()
            assert found.p_value.tolist() == plain.p_value.tolist()
            assert found.points_after.tolist() == plain.points_after.tolist()


class TestEquivariance:
    """What must not matter does not."""

    SERIES = draw("autocorrelated", 60, steps((70, 100.0), (50, 118.0)), seed=9)

    def test_scale(self) -> None:
        """Milliseconds or seconds: the same changes with the same figures; by powers of two to the last bit."""
        plain = find_changes(self.SERIES)
        for factor in (0.001, 1e6, 2.0**-40):
            scaled = find_changes(self.SERIES * factor)
            assert scaled.position.tolist() == plain.position.tolist()
            assert scaled.p_value == pytest.approx(plain.p_value)
            assert scaled.change_pct == pytest.approx(plain.change_pct)
            assert scaled.level_after == pytest.approx(plain.level_after * factor)
        assert find_changes(self.SERIES * 2.0**-40).p_value.tolist() == plain.p_value.tolist()

    def test_reversal(self) -> None:
        """Read backwards, a clear change lies at the mirrored place, its levels swapped."""
        values = draw("independent", 60, steps((70, 100.0), (50, 130.0)), seed=9)
        plain, mirrored = find_changes(values), find_changes(values[:, ::-1])
        assert (120 - mirrored.position).tolist() == plain.position.tolist()
        assert mirrored.level_before.tolist() == plain.level_after.tolist()
        assert mirrored.effect_spreads == pytest.approx(plain.effect_spreads)

    def test_reflection(self) -> None:
        """Where no logarithm is taken, down is treated as up is."""
        plain, reflected = find_changes(self.SERIES), find_changes(-self.SERIES)
        assert reflected.position.tolist() == plain.position.tolist()
        assert reflected.p_value == pytest.approx(plain.p_value)

    def test_company(self) -> None:
        """A series alone gives what it gives among others of other lengths; only confidence knows of them."""
        random = np.random.default_rng(8)
        many = np.full((300, 450), np.nan)
        for row in range(300):
            points = int(random.integers(5, 450))
            start = 450 - points if row % 2 else 0
            many[row, start : start + points] = draw("autocorrelated", 1, steps((points // 2, 100), (450, 125)), row)[
                0, :points
            ]
        together = find_changes(many)
        assert len(together) > 200
        for row in range(0, 300, 17):
            alone, here = find_changes_in(many[row]), together.take(together.series == row)
            assert here.position.tolist() == alone.position.tolist()
            assert here.p_value == pytest.approx(alone.p_value)

    def test_repeatable(self) -> None:
        """The same series give the same bits."""
        first, second = find_changes(self.SERIES), find_changes(self.SERIES)
        assert first.p_value.tobytes() == second.p_value.tobytes()
        assert first.position.tobytes() == second.position.tobytes()


@given(
    kind=st.sampled_from(["constant", "zeros", "counts", "noise"]),
    seed=st.integers(0, 30),
    points=st.integers(LEAST_POINTS, 90),
    places=st.tuples(st.integers(0, 10**6), st.integers(-2, 2)),
    sizes=st.tuples(*[st.floats(-1e12, 1e12, allow_subnormal=False)] * 2),
)
def test_one_or_two_outliers_are_no_change(
    kind: str, seed: int, points: int, places: tuple[int, int], sizes: tuple[float, float]
) -> None:
    """Whatever their size, wherever they stand, side by side or one alone."""
    random = np.random.default_rng(seed)
    values = {
        "constant": np.full(points, 7.0),
        "zeros": np.zeros(points),
        "counts": np.round(20 + random.standard_normal(points)),
        "noise": 100 + 5 * random.standard_normal(points),
    }[kind]
    assume(not len(find_changes_in(values)))
    first = places[0] % points
    second = min(max(first + places[1], 0), points - 1)
    values[second] += sizes[1]
    values[first] += sizes[0]
    assert not len(find_changes_in(values))


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(0, 60)),
        elements=st.one_of(st.floats(), st.sampled_from([0.0, 1.0, -1.0, 5.0, np.nan])),
    ),
)
def test_anything_can_be_searched(values: Floats) -> None:
    """Any floats: no warning, finite figures, changes in order with five points on either side."""
    found = find_changes(values)
    for name in ("level_before", "level_after", "change_pct", "effect_spreads", "p_value", "confidence"):
        assert np.isfinite(getattr(found, name)).all()
    assert (np.minimum(found.points_before, found.points_after) >= 5).all()
    assert (np.diff(found.series * 1000 + found.position) > 0).all()
    assert ((found.p_value >= 0) & (found.p_value <= 0.05)).all()


class TestFalseDiscoveries:
    """Many series at once."""

    # Benjamini and Hochberg (1995), section 4.1: 15 comparisons of two treatments of myocardial infarction.
    PUBLISHED = (
        *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459),
        *(0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
    )

    def test_published_example(self) -> None:
        """At 5 % the four smallest are significant, as the paper says, in whatever order they are listed."""
        shuffled = np.random.default_rng(0).permutation(15)
        adjusted = np.empty(15)
        adjusted[shuffled] = benjamini_hochberg(np.array(self.PUBLISHED)[shuffled])
        assert (adjusted <= 0.05).tolist() == [True] * 4 + [False] * 11
        # By hand: p times 15 over rank, no larger than for any larger p.
        expected = [0.0015, 0.003, 0.0095, 0.035625, 0.0603, 0.0298 * 15 / 7, 0.0298 * 15 / 7, 0.0645, 0.0765, 0.486]
        assert adjusted[:10] == pytest.approx(expected)
        assert adjusted[14] == 1.0

    def test_hypotheses_that_are_not_listed_count_as_one(self) -> None:
        """Listing only the small p-values and naming the number of tests gives the same."""
        whole = benjamini_hochberg(self.PUBLISHED)
        assert benjamini_hochberg(self.PUBLISHED[:9], tests=15) == pytest.approx(whole[:9])
        assert not len(benjamini_hochberg([]))

    def test_share_of_false_changes_is_bounded(self) -> None:
        """Of what is reported among 400 series, 40 with a change, hardly anything is false, and changes are found."""
        levels = steps((60, 100.0), (60, 115.0))
        values = np.concatenate([draw("autocorrelated", 40, levels), draw("autocorrelated", 360, flat(120), 1)])
        everything = find_changes(values)
        found = find_changes(values, false_discovery_rate=0.01)
        assert (everything.series >= 40).sum() >= 5
        assert (found.series >= 40).sum() <= 2
        assert len(np.unique(found.series[found.series < 40])) >= 36
        assert (1 - found.confidence <= 0.01).all()

    def test_p_value_falls_with_evidence(self) -> None:
        """At every length, from the chance to see any change at all."""
        evidence = np.linspace(PENALTY, PENALTY + 30, 50)
        for points in (5, 10, 37, 120, 1000, 5000):
            p = p_value(evidence, np.full(50, points))
            assert (np.diff(p) < 0).all()
            assert 0 < p[0] < 0.06
            assert (p_value(evidence, points, 0.0) < p).all()


@pytest.mark.parametrize(
    ("metric_type", "before", "after", "expected"),
    [
        ("duration", 100, 120, "regression"),
        ("duration", 120, 100, "improvement"),
        ("lcp", 2000, 2600, "regression"),
        ("CLS", 0.2, 0.1, "improvement"),
        ("error_rate", 0.01, 0.05, "regression"),
        ("success_rate", 0.9, 0.99, "improvement"),
        ("successRate", 0.99, 0.9, "regression"),
        ("score", 90, 70, "regression"),
        ("lighthouse-score", 70, 90, "improvement"),
        ("checkout.throughput", 500, 400, "regression"),
        ("requests_per_second", 400, 500, "improvement"),
        ("errors_per_second", 4, 5, "regression"),
        ("underscore", 4, 5, "regression"),
        ("", 4, 5, "regression"),
        ("duration", 100, 100.05, "unchanged"),
        ("score", 0, 0, "unchanged"),
        ("score", 0, 1e-9, "improvement"),
        ("duration", -5, -4, "regression"),
    ],
)
def test_direction(metric_type: str, before: float, after: float, expected: str) -> None:
    """Lower is better unless the last words of the metric type say otherwise; next to nothing is no change."""
    assert direction(metric_type, before, after) == expected


class TestParts:
    """Closed forms against dense linear algebra, running sums against definitions."""

    @staticmethod
    def _dense(y: Floats, rho: float, design: Floats) -> tuple[float, Floats, float]:
        """Generalised least squares under AR(1) noise whose innovations have variance 1, by inverting its covariance.

        The residual, the coefficients, and the logarithm of the determinant of the coefficients' information.
        """
        lags = np.abs(np.subtract.outer(np.arange(len(y)), np.arange(len(y))))
        inverse = np.linalg.inv(np.where(lags == 0, 1.0, rho**lags)) * (1 - rho**2)
        information = design.T @ inverse @ design
        coefficients = np.linalg.solve(information, design.T @ inverse @ y)
        rest = y - design @ coefficients
        return float(rest @ inverse @ rest), coefficients, float(np.linalg.slogdet(information)[1])

    @pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
    def test_level_and_step_under_autocorrelated_noise(self, rho: float) -> None:
        """What prefix sums say of a stretch is what inverting its covariance matrix says."""
        y = np.random.default_rng(2).normal(3, 2, (2, 40))
        block = Block.of(y, np.array([40, 40]), np.zeros(2))
        row, begin, at, end = (np.array([value]) for value in (1, 4, 17, 35))
        level = fit_level(block, row, begin, end, np.array([rho]))
        step = fit_step(block, row, begin, at, end, np.array([rho]), level)
        stretch, one = y[1, 4:35], np.ones(31)
        without, _, _ = self._dense(stretch, rho, one[:, None])
        with_step, coefficients, _ = self._dense(stretch, rho, np.stack([one, np.arange(4, 35) >= 17], axis=1))
        assert level.residual[0, 0] == pytest.approx(without)
        assert level.residual[0, 0] - step.gain[0, 0] == pytest.approx(with_step)
        assert step.height[0, 0] == pytest.approx(coefficients[1])

    def test_loss_of_a_lone_cut_is_a_likelihood_ratio(self) -> None:
        """With one cut: twice the difference of two restricted likelihoods, each at its best autocorrelation."""
        y = np.random.default_rng(5).normal(0, 1, 30) + (np.arange(30) >= 12) * 1.5
        block = Block.of(y[None, :], np.array([30]), np.zeros(1))
        loss, _ = losses(block, np.array([0]), np.array([[12]]))
        one = np.ones(30)
        best = {}
        for design in (one[:, None], np.stack([one, np.arange(30) >= 12], axis=1)):
            plain = np.linalg.slogdet(design.T @ design)[1]
            values = []
            for rho in AUTOCORRELATIONS:
                residual, _, information = self._dense(y, rho, design)
                restricted = 0.5 * np.log(1 - rho**2) - 0.5 * (information - plain) - 0.5 * 28 * np.log(residual)
                values.append(restricted - 0.5 * ((rho - 0.5) / 0.2) ** 2)
            best[design.shape[1]] = max(values)
        assert loss[0, 0] == pytest.approx(2 * (best[2] - best[1]))

    @pytest.mark.parametrize("cuts", [[], [12], [9, 31]])
    def test_a_line_beside_steps(self, cuts: list[int]) -> None:
        """Slope, standard error and residual are those of least squares on a line and one column a step."""
        at = np.arange(40.0)
        y = np.random.default_rng(1).standard_normal(40) + 0.05 * at + sum(2.0 * (at >= cut) for cut in cuts)
        block = Block.of(np.stack([np.zeros(50), np.pad(y, (0, 10))]), np.array([50, 40]), np.zeros(2))
        line = fit_lines(block, np.array([1]), np.array(cuts, np.int64)[None, :])
        design = np.stack([at, np.ones(40), *(1.0 * (at >= cut) for cut in cuts)], axis=1)
        residual, coefficients, _ = self._dense(y, 0.0, design)
        variance = residual / (40 - design.shape[1])
        assert line.slope[0] == pytest.approx(coefficients[0])
        assert line.residual[0] == pytest.approx(residual)
        assert line.spread[0] == pytest.approx(np.sqrt(variance))
        assert line.error[0] >= np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0]) * (1 - 1e-9)

    def test_the_best_step_beside_a_line(self) -> None:
        """Of all places the one where least squares on a level, a slope and a step leave least."""
        y = np.random.default_rng(4).standard_normal((3, 40)) - 0.04 * np.arange(40) + 1.5 * (np.arange(40) >= 22)
        y[1, 31:] = 0.0
        split, rest = splits_beside_lines(Block.of(y, np.array([40, 31, 40]), np.zeros(3)))
        for row, size in enumerate((40, 31, 40)):
            at, left = np.arange(size), {}
            for place in range(5, size - 4):
                design = np.stack([np.ones(size), at, at >= place], axis=1)
                left[place] = self._dense(y[row, :size], 0.0, design)[0]
            assert split[row] == min(left, key=left.__getitem__)
            assert rest[row] == pytest.approx(left[split[row]])

    def test_a_short_level_hides_behind_a_cut_in_its_middle(self) -> None:
        """Both ends of it are those where dense least squares leave least; a plain step keeps its one cut."""
        random = np.random.default_rng(6)
        at = np.arange(60)
        for short in (False, True):
            y = random.standard_normal(60) + 8.0 * (at >= 30) + (8.0 * (at >= 37) if short else 0.0)
            block = Block.of(y[None, :], np.array([60]), np.zeros(1))
            cut = np.array([[33 if short else 30]])
            _, best = losses(block, np.array([0]), cut)
            rho = float(AUTOCORRELATIONS[best[0, 0]])
            left = {}
            for first, last in product(range(24, 33), range(34, 43)):
                if 5 <= last - first <= 9:
                    parts = [(0, first), (first, last), (last, 60)]
                    left[first, last] = sum(self._dense(y[a:b], rho, np.ones((b - a, 1)))[0] for a, b in parts)
            found = around(block, np.array([0]), cut, np.array([rho]), np.array([9.7]))
            assert found.tolist() == ([list(min(left, key=left.__getitem__))] if short else [[30, 60]])

    def test_a_cut_goes_to_its_best_place(self) -> None:
        """Among all places between its neighbours, the one where dense least squares leave least."""
        random = np.random.default_rng(3)
        for _ in range(5):
            y = random.standard_normal(60) + np.where(np.arange(60) < 33, 0.0, 2.5)
            block = Block.of(y[None, :], np.array([60]), np.zeros(1))
            cut = np.array([[29]])
            _, best = losses(block, np.array([0]), cut)
            rho = float(AUTOCORRELATIONS[best[0, 0]])
            left = {
                place: self._dense(y, rho, np.stack([np.ones(60), np.arange(60) >= place], axis=1))[0]
                for place in range(5, 56)
            }
            assert move(block, np.array([0]), cut, np.array([rho])).tolist() == [[min(left, key=left.__getitem__)]]

    def test_innovations_of_noise_seen_through_noise(self) -> None:
        """The recursion's sum of squares is the generalised one of the ARMA(1, 1) covariance, up to how it begins."""
        y = np.random.default_rng(7).normal(1, 1, 300)
        residual, _ = innovations(y[None, :], np.array([300]), changesearch._NOISE)
        for column, (rho, theta) in enumerate(changesearch._NOISE):
            lag = np.arange(300)
            variance = (1 - 2 * rho * theta + theta**2) / (1 - rho**2)
            first = (1 - rho * theta) * (rho - theta) / (1 - rho**2)
            covariance = np.where(lag == 0, variance, first * rho ** (np.maximum(lag, 1) - 1))
            inverse = np.linalg.inv(covariance[np.abs(np.subtract.outer(lag, lag))])
            level = inverse.sum(axis=0) @ y / inverse.sum()
            assert residual[0, column] == pytest.approx((y - level) @ inverse @ (y - level), rel=0.02)

    @given(st.integers(7, 40), st.integers(0, 100), st.integers(0, 20))
    def test_outliers_go_back_to_the_median_around_them(self, points: int, seed: int, padding: int) -> None:
        """The running median is numpy's over seven points, of which the ends share theirs; padding does not matter."""
        x = np.random.default_rng(seed).standard_normal(points)
        padded = np.concatenate([x, np.full(padding, np.nan)])[None, :]
        block = prepare(*pack(padded))
        centres = np.clip(np.arange(points), 3, points - 4)
        around = np.array([np.median(x[c - 3 : c + 4]) for c in centres])
        scaled = (block.y[0, :points] - block.y[0, 0]) / (block.y[0, :points] - block.y[0, 0])[-1]
        kept = np.abs(x - around) < 2 * np.median(np.abs(x - around))
        expected = (x - x[0]) / (x[-1] - x[0])
        both_ends_kept = kept & kept[0] & kept[-1]
        assert scaled[both_ends_kept] == pytest.approx(expected[both_ends_kept])
        assert (block.y[0, points:] == 0).all()

    @given(
        hnp.arrays(np.float64, st.integers(12, 30), elements=st.integers(0, 6).map(float)),
        st.integers(5, 7),
    )
    def test_ranks_and_medians_by_definition(self, values: Floats, position: int) -> None:
        """Pairs counted one by one, ties as half, and medians by numpy."""
        found = measure(values[None, :], np.array([len(values)]), np.array([0]), np.array([position]), np.zeros(1))
        before, after = values[:position], values[position:]
        beyond = np.mean([(a > b) + (a == b) / 2 for a in after for b in before])
        if np.median(after) < np.median(before):
            beyond = 1 - beyond
        assert found.beyond[0] == pytest.approx(beyond)
        assert found.level_before[0] == np.median(before)
        assert found.level_after[0] == np.median(after)
        z = (beyond - 0.5) * np.sqrt(12 * len(before) * len(after) / (len(values) + 1))
        assert found.rank_z[0] == pytest.approx(z)
        assert found.most_rank_z[0] >= abs(found.rank_z[0]) - 1e-9

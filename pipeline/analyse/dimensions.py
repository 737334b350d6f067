"""The names of what is computed: the dimensions of a series, the vitals and their boundaries. Imports no numbers."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.metric import DIMENSIONS

SERIES = tuple(name for name in DIMENSIONS if name != "status")
"""What a series is keyed by; an absent dimension is the empty string."""

WINDOW_DIMENSIONS = ("environment", "browser", "page")
"""What a window of a vital is keyed by."""


@dataclass(frozen=True)
class Vital:
    """One vital: up to and including ``good`` is good, above ``poor`` is poor; milliseconds, CLS without unit.

    ``lighthouse`` holds the control points (p10, median) of Lighthouse's score for mobile, None where it publishes
    none; ``desktop`` those for desktop, None where they are the same. What only laboratories measure is rated as
    Lighthouse colours it, by the control points of the form factor.
    """

    name: str
    good: float
    poor: float
    lighthouse: tuple[float, float] | None
    successor: str = ""
    desktop: tuple[float, float] | None = None
    is_lab: bool = False

    def control_points(self, form_factor: str) -> tuple[float, float] | None:
        """The control points for ``mobile`` or ``desktop``."""
        return self.desktop or self.lighthouse if form_factor == "desktop" else self.lighthouse

    def limits(self, form_factor: str) -> tuple[float, float]:
        """Up to which value it is good, and above which it is poor."""
        points = self.control_points(form_factor) if self.is_lab else None
        return points or (self.good, self.poor)

    @property
    def is_legacy(self) -> bool:
        """Whether the vital has been replaced by another."""
        return bool(self.successor)


# Boundaries: web-vitals, src/on*.ts (``LCPThresholds`` and so on). Control points: Lighthouse 13,
# core/audits/metrics (largest-contentful-paint.js and so on). Those for mobile coincide with the boundaries, so that a
# score of at least 0.9 means good and below 0.5 poor; those for desktop are stricter than the rating. CLS and INP have
# one pair for both. Lighthouse scores neither TTFB nor FID. TBT and Speed Index have no boundaries but Lighthouse's.
VITALS = {
    vital.name: vital
    for vital in (
        Vital("lcp", 2500, 4000, lighthouse=(2500, 4000), desktop=(1200, 2400)),
        Vital("inp", 200, 500, lighthouse=(200, 500)),
        Vital("cls", 0.1, 0.25, lighthouse=(0.1, 0.25)),
        Vital("fcp", 1800, 3000, lighthouse=(1800, 3000), desktop=(934, 1600)),
        Vital("ttfb", 800, 1800, lighthouse=None),
        # FID left the Core Web Vitals in March 2024; INP took its place.
        Vital("fid", 100, 300, lighthouse=None, successor="inp"),
        Vital("tbt", 200, 600, lighthouse=(200, 600), desktop=(150, 350), is_lab=True),
        Vital("speed_index", 3387, 5800, lighthouse=(3387, 5800), desktop=(1311, 2300), is_lab=True),
    )
}

"""Intervals and tests: one rule for each, for every table and figure. No torch here.

An interval of a mean is Student's t on the scale on which the quantity has no end: the logit between two limits, the
logarithm above a single one, the number itself where there is none; so that no interval leaves what the quantity can
be. Where there is no spread beyond rounding there is nothing to test against: interval and p are NaN, never a width
of 0; so they are of a difference that is itself no more than rounding.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy  # whose parts take a while, and are imported when they are used

from svda_analysis.errors import InputError

LEVEL = 0.95
_ROUNDING = 1e-12  # a spread below this share of the values is rounding, not variation
_RESOLUTION = 1e-6  # the share of what numbers can be below which rounding in float32, as models compute, parts equals
Numbers = Sequence[float] | np.ndarray | pd.Series


class ConfidenceInterval(NamedTuple):
    """The ends of an interval; NaN where there is none. Named as scipy's."""

    low: float
    high: float


NO_INTERVAL = ConfidenceInterval(math.nan, math.nan)


class Contrast(NamedTuple):
    """A difference with its 95 % interval, two-sided p and standardised effect; NaN where there is none."""

    difference: float
    interval: ConfidenceInterval = NO_INTERVAL
    p: float = math.nan
    effect: float = math.nan


def has_spread(se: float, size: float) -> bool:
    """Whether a standard error is more than rounding of numbers as large as ``size``."""
    return bool(_ROUNDING * size < se < math.inf)


def _can_be_tested(difference: float, se: float, size: float, span: float) -> bool:
    """Whether a difference of numbers as large as ``size``, which can be ``span`` at most, has a spread, and is more
    with it than rounding in float32 leaves of equal numbers."""
    largest = max(size, span) if math.isfinite(span) else size
    return has_spread(se, size) and max(abs(difference), se) > _RESOLUTION * largest


# --- means ------------------------------------------------------------------------------------------------------------


class Moments:
    """Count, mean and sum of squared deviations, merged batch by batch (Chan, Golub & LeVeque 1979).

    The mean is kept as what it was of the first batch and how far it has moved since: so the order of merging changes
    the deviation by rounding alone, also where it is tiny beside the mean.
    """

    def __init__(self) -> None:
        self.n = 0
        self.origin: np.ndarray = np.zeros(())
        self.shift: np.ndarray = np.zeros(())
        self.m2: np.ndarray = np.zeros(())

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.origin + self.shift)

    def update(self, values: np.ndarray) -> None:
        """Add ``values (B, ...)``, one entry an image."""
        if not len(values):
            return
        batch = Moments()
        values = np.asarray(values, dtype=np.float64)
        batch.n, batch.origin = len(values), values.mean(0)
        batch.m2 = np.square(values - batch.origin).sum(0)
        self.merge(batch)

    def merge(self, other: Moments) -> None:
        """Add all that ``other`` has seen."""
        if not other.n:
            return
        if not self.n:
            self.origin = other.origin
        total = self.n + other.n
        delta = (other.origin - self.origin) + (other.shift - self.shift)
        self.m2 = self.m2 + other.m2 + np.square(delta) * (self.n * other.n / total)
        self.shift = self.shift + delta * (other.n / total)
        self.n = total

    def std(self) -> np.ndarray:
        """Deviation with n - 1 in the denominator; NaN for fewer than two."""
        if self.n < 2:
            return np.full_like(np.asarray(self.m2), math.nan)
        return np.asarray(np.sqrt(self.m2 / (self.n - 1)))

    def half_width(self) -> np.ndarray:
        """Half the width of the plain t interval of each mean, whatever its limits: how far a stream has come."""
        t = float(scipy.special.stdtrit(max(self.n - 1, 1), (1 + LEVEL) / 2))
        return self.std() * t / math.sqrt(max(self.n, 1))

    def interval(self, low: float = -math.inf, high: float = math.inf, *, index: Any = ()) -> ConfidenceInterval:
        """The interval of the mean, or of one of the means (:func:`mean_interval`)."""
        mean, se = float(self.mean[index]), float(self.std()[index]) / math.sqrt(max(self.n, 1))
        return mean_interval(mean, se, self.n - 1, low=low, high=high)


def mean_interval(
    mean: float,
    se: float,
    df: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    size: float | None = None,
    level: float = LEVEL,
) -> ConfidenceInterval:
    """Student's t interval of a mean with standard error ``se`` at ``df`` degrees of freedom, within ``[low, high]``.

    Between two limits on the logit scale, above (below) one on the logarithm of the distance from it, by the delta
    method: ``g(mean) +- t g'(mean) se``, taken back. ``size`` is how large the numbers are that were averaged, for the
    guard against rounding (default: the mean). NaN where there is no spread, or the mean stands at a limit.
    """
    if not has_spread(se, abs(mean) if size is None else size) or not df > 0:
        return NO_INTERVAL
    t = float(scipy.special.stdtrit(df, (1 + level) / 2))
    bounded = (math.isfinite(low), math.isfinite(high))
    if bounded == (False, False):
        return ConfidenceInterval(mean - t * se, mean + t * se)
    if not low < mean < high:
        return NO_INTERVAL
    if bounded == (True, True):
        share = (mean - low) / (high - low)
        middle, half = float(scipy.special.logit(share)), t * se / (high - low) / (share * (1 - share))
        ends = (float(scipy.special.expit(middle + sign * half)) for sign in (-1, 1))
        return ConfidenceInterval(*(low + (high - low) * end for end in ends))
    if bounded[0]:
        return ConfidenceInterval(*(low + (mean - low) * _exp(sign * t * se / (mean - low)) for sign in (-1, 1)))
    return ConfidenceInterval(*(high - (high - mean) * _exp(-sign * t * se / (high - mean)) for sign in (-1, 1)))


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))


def interval_over(values: Numbers, *, low: float = -math.inf, high: float = math.inf) -> ConfidenceInterval:
    """:func:`mean_interval` of the mean of ``values (n,)``, each one run; NaN for fewer than two."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return NO_INTERVAL
    se = float(x.std(ddof=1)) / math.sqrt(len(x))
    return mean_interval(float(x.mean()), se, len(x) - 1, low=low, high=high, size=float(np.abs(x).max()))


def proportion_interval(share: float, n: int) -> ConfidenceInterval:
    """Wilson's 95 % interval of a share of ``n`` images (Wilson 1927): it has a width at 0 and at 1 too.

    ``(2 n p + z^2 +- z sqrt(4 n p (1 - p) + z^2)) / (2 (n + z^2))`` with z the normal quantile.
    """
    if not n or math.isnan(share):
        return NO_INTERVAL
    k, z = round(share * n), float(scipy.special.ndtri(0.5 + LEVEL / 2))
    p, whole = k / n, 2 * (n + z**2)
    middle, half = (2 * n * p + z**2) / whole, z / whole * math.sqrt(4 * n * p * (1 - p) + z**2)
    return ConfidenceInterval(0.0 if k == 0 else middle - half, 1.0 if k == n else middle + half)


# --- differences ------------------------------------------------------------------------------------------------------


def difference_test(difference: float, se: float, df: float, *, size: float, span: float = math.inf) -> Contrast:
    """Student's t of a difference with standard error ``se``; its interval is cut at what a difference can be,
    ``+-span``, which leaves its coverage as it is. ``size`` is how large the compared numbers are. What rounding in
    float32 can make of equal numbers has no interval and no p."""
    if not _can_be_tested(difference, se, size, span) or not df > 0:
        return Contrast(difference)
    ends = np.clip(mean_interval(difference, se, df, size=size), -span, span).tolist()
    return Contrast(difference, ConfidenceInterval(*ends), 2 * float(scipy.special.stdtr(df, -abs(difference) / se)))


def paired_test(x: np.ndarray, y: np.ndarray, *, span: float = math.inf) -> Contrast:
    """``y - x`` of runs paired by seed, ``(n,)`` each with n >= 2: Student's t at n - 1 degrees of freedom.

    The effect is ``J(n-1) mean(d) / sd(d)``, Hedges' g standardised by the differences (Gibbons, Hedeker & Davis 1993,
    J. Educ. Stat. 18:271; Lakens 2013, d_z); NaN for two pairs, where J does not exist.
    """
    d = y - x
    return _tested(scipy.stats.ttest_rel, x, y, se=scipy.stats.sem(d), sd=d.std(ddof=1), df=len(d) - 1, span=span)


def welch_test(x: np.ndarray, y: np.ndarray, *, span: float = math.inf) -> Contrast:
    """``mean(y) - mean(x)`` of two groups of runs of at least two each: Welch's t with Satterthwaite's degrees of
    freedom (Welch 1947). The effect is ``J(n+m-2) (mean difference) / pooled sd``."""
    df, se = len(x) + len(y) - 2, math.hypot(scipy.stats.sem(x), scipy.stats.sem(y))
    pooled = math.sqrt((len(x) * x.var() + len(y) * y.var()) / df)
    return _tested(scipy.stats.ttest_ind, x, y, se=se, sd=pooled, df=df, span=span, equal_var=False)


def welch_from_moments(x: tuple[float, float, int], y: tuple[float, float, int]) -> Contrast:
    """:func:`welch_test` of two groups of which mean, standard deviation and size are all that is known; no effect.
    Without a spread (one run) there is no interval."""
    (x_mean, x_std, n), (y_mean, y_std, m) = x, y
    of_x, of_y = x_std**2 / n, y_std**2 / m
    if not of_x + of_y > 0:  # NaN: one run
        return Contrast(y_mean - x_mean)
    df = (of_x + of_y) ** 2 / (of_x**2 / (n - 1) + of_y**2 / (m - 1))
    return difference_test(y_mean - x_mean, math.sqrt(of_x + of_y), df, size=max(abs(x_mean), abs(y_mean)))


def _tested(
    test: Any, x: np.ndarray, y: np.ndarray, *, se: float, sd: float, df: int, span: float, **options: Any
) -> Contrast:
    """What ``test`` of scipy says of ``y`` against ``x``, where the difference has spread; the effect in ``sd``."""
    difference = float(y.mean() - x.mean())
    if not _can_be_tested(difference, se, float(np.abs([*x, *y]).max()), span):
        return Contrast(difference)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # one group alone may be constant
        found = test(y, x, **options)
    ends = np.clip(found.confidence_interval(LEVEL), -span, span).tolist()
    return Contrast(difference, ConfidenceInterval(*ends), float(found.pvalue), hedges_correction(df) * difference / sd)


def blocked_contrast(values: np.ndarray, weights: Numbers, *, span: float = math.inf) -> Contrast:
    """A contrast ``sum_g weights_g mean_g`` of groups (models) whose runs come in blocks (training seeds).

    ``values (blocks, groups)``, NaN where a group has no run in a block: the linear model ``group + block`` with
    independent errors, by least squares (Fisher 1935). Runs of one seed share initial weights and the order of the
    data, which the block takes out; the error is pooled over all groups. ``mean_g`` is the model's at the average of
    all blocks (Searle, Speed & Milliken 1980, Am. Stat. 34:216); without gaps the plain mean. No effect size. NaN where
    the runs do not tell a contrast: its groups share no block, nor do others lead from one to the other (Weeks &
    Williams 1964, Technometrics 6:319). Raises :class:`InputError` for fewer than two blocks or groups.
    """
    y, w = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    if y.ndim != 2 or min(y.shape) < 2 or w.shape != y.shape[1:] or np.isinf(y).any():
        raise InputError(f"values must be finite, of two blocks and groups at least, weights (groups,), got {y.shape}")
    difference, se, df = _with_gaps(y, w) if np.isnan(y).any() else _without_gaps(y, w)
    if math.isnan(difference):
        return Contrast(difference)
    return difference_test(difference, se, df, size=float(np.nanmax(np.abs(y))), span=span)


def _without_gaps(y: np.ndarray, w: np.ndarray) -> tuple[float, float, int]:
    """Difference, standard error and degrees of freedom of :func:`blocked_contrast` in closed form."""
    df = (y.shape[0] - 1) * (y.shape[1] - 1)
    errors = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    se = math.sqrt(float(np.square(errors).sum()) / df * float(np.square(w).sum()) / len(y))
    return float(y.mean(0) @ w), se, df


def _with_gaps(y: np.ndarray, w: np.ndarray) -> tuple[float, float, int]:
    """The same with design matrix ``X`` (a column for each group and block) and contrast ``c``: ``c X+ y`` with
    variance ``s^2 |c X+|^2``, where ``c X+ X = c``, that is, where it can be estimated (Searle 1971, Linear Models)."""
    block, group = np.nonzero(~np.isnan(y))
    design = np.concatenate([np.eye(y.shape[1])[group], np.eye(y.shape[0])[block]], axis=1)
    asked = np.concatenate([w, np.full(len(y), w.sum() / len(y))])
    inverse, found = np.linalg.pinv(design), y[block, group]
    of_runs = asked @ inverse
    if not np.allclose(of_runs @ design, asked):
        return math.nan, math.nan, 0
    df = len(found) - int(np.linalg.matrix_rank(design))
    errors = found - design @ (inverse @ found)
    se = math.sqrt(float(np.square(errors).sum()) / df) * float(np.linalg.norm(of_runs)) if df else math.nan
    return float(of_runs @ found), se, df


def hedges_correction(df: float) -> float:
    """``J = Gamma(df/2) / (sqrt(df/2) Gamma((df-1)/2))`` (Hedges 1981, J. Educ. Stat. 6:107); NaN below two degrees."""
    if df < 2:
        return math.nan
    return math.exp(scipy.special.gammaln(df / 2) - scipy.special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)


def holm(p: Numbers) -> np.ndarray:
    """Holm's step-down adjustment of ``p (n,)`` (Holm 1979, Scand. J. Stat. 6:65); NaN stay NaN and do not count.

    The k-th smallest of m becomes ``max over j <= k of min(1, (m - j + 1) p_(j))``. Returns float64 ``(n,)``.
    """
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or (p < 0).any() or (p > 1).any():
        raise InputError(f"p must be one row of numbers in [0, 1] or NaN, got {p}")
    adjusted, known = np.full(len(p), math.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


class Equivalence(NamedTuple):
    """The result of :func:`tost`; NaN where the differences show no spread to test against."""

    mean: float
    ci_low: float  # 90 % interval of the mean: p < 0.05 says that it lies within the margin
    ci_high: float
    p_lower: float  # against a mean of -margin or less: small says not worse
    p_upper: float  # against a mean of +margin or more: small says not better
    p: float  # the larger of the two: small says equivalent
    n: int
    std: float = math.nan  # of the differences


def tost(differences: Numbers, margin: float) -> Equivalence:
    """Is the mean of paired ``differences (n,)`` within ``(-margin, margin)``? Two one-sided t tests, each at n - 1
    degrees of freedom; equivalence is shown where both reject (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657).

    ``margin`` has the unit of the differences. Fewer than two, a NaN among them, or no spread beyond rounding: NaN.
    """
    d = np.asarray(differences, dtype=float)
    if d.ndim != 1 or not len(d):
        raise InputError(f"differences must be one row of numbers, got shape {d.shape}")
    if not 0 < margin < math.inf:
        raise InputError(f"margin must be above 0, got {margin}")
    n, mean = len(d), float(d.mean())
    std = float(d.std(ddof=1)) if n > 1 else math.nan
    if not has_spread(std / math.sqrt(n), max(np.abs(d).max(), margin)):
        return Equivalence(mean, math.nan, math.nan, math.nan, math.nan, math.nan, n)
    above = scipy.stats.ttest_1samp(d, -margin, alternative="greater")
    below = scipy.stats.ttest_1samp(d, margin, alternative="less")
    low, high = above.confidence_interval(0.95).low, below.confidence_interval(0.95).high  # one-sided: together 90 %
    p = float(above.pvalue), float(below.pvalue)
    return Equivalence(mean, float(low), float(high), *p, max(p), n, std)


def noninferiority_power(std: float, n: int, margin: float) -> float:
    """The chance that the one-sided t test of :func:`tost` against a loss of ``margin`` rejects at 5 %, where the true
    mean of ``n`` paired differences with deviation ``std`` is 0: the tail of the noncentral t with ``n - 1`` degrees of
    freedom beyond its 95 % quantile (Julious 2004, Stat. Med. 23:1921). NaN below two pairs, or without a spread."""
    if n < 2 or not std > 0:
        return math.nan
    return 1 - float(scipy.special.nctdtr(n - 1, margin * math.sqrt(n) / std, scipy.special.stdtrit(n - 1, 0.95)))


def pairs_needed(std: float, margin: float, power: float = 0.8, most: int = 1000) -> int | None:
    """The fewest pairs with which :func:`noninferiority_power` reaches ``power``; None where ``most`` do not."""
    return next((n for n in range(2, most + 1) if noninferiority_power(std, n, margin) >= power), None)


# --- paired proportions ---------------------------------------------------------------------------------------------


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact two-sided p: of the images on which just one model is right, is either model right more often?

    A binomial test of ``lost`` among ``lost + won`` with chance 1/2 (McNemar 1947); 1 where the models never differ.
    """
    return float(scipy.stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def adjusted_wald(lost: int, won: int, n: int) -> ConfidenceInterval:
    """95 % interval of a paired difference of proportions, won minus lost over ``n`` (Bonett & Price 2012).

    Wald's interval with one image added to each of the two counts: unlike Student's t it has a width where no image
    flips, so that few images cannot pass for certainty.
    """
    p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    change = p_won - p_lost
    half = float(scipy.stats.norm.ppf(0.975)) * math.sqrt((p_lost + p_won - change**2) / (n + 2))
    return ConfidenceInterval(change - half, change + half)

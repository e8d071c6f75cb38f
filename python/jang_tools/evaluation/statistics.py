"""Means over tokens with errors over sequences: tokens of one sequence are not independent.

All arrays are ``[sequences, positions]`` in float64, the same positions in each sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

RESAMPLES = 10_000
_BLOCK = 1_000_000  # random indices drawn at once


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error; None for a single sequence, which tells none."""

    value: float
    se: float | None


def estimate(values: Values) -> Estimate:
    """Mean over all positions; its error is sd(means of sequences) / sqrt(sequences)."""
    means = values.mean(axis=1)
    count = len(means)
    se = float(means.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    return Estimate(float(means.mean()), se)


@dataclass(frozen=True)
class KlSummary:
    """KL(reference || model) in nats per token."""

    mean: float
    se: float | None
    median: float
    p95: float
    p99: float
    p999: float
    max: float


def summarize_kl(kl: Values) -> KlSummary:
    mean = estimate(kl)
    median, p95, p99, p999 = np.quantile(kl, [0.5, 0.95, 0.99, 0.999])
    return KlSummary(
        mean.value, mean.se, float(median), float(p95), float(p99), float(p999), float(kl.max())
    )


def ratio_of_perplexities(nll: Values, nll_reference: Values) -> Estimate:
    """exp(mean nll - mean reference nll), with the error of the paired difference."""
    difference = estimate(nll - nll_reference)
    ratio = exp(difference.value)
    return Estimate(ratio, None if difference.se is None else ratio * difference.se)


def exp(value: float) -> float:
    """e^value, infinite where it is too large: a broken model has any perplexity."""
    return math.exp(value) if value < 709 else math.inf


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with a 95 % bootstrap interval over sequences.

    ``confidence``: the share of resamples on whose side of zero the mean is, 0.5 to 1.
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    confidence: float | None


def paired_difference(a: Values, b: Values, seed: int) -> Difference:
    """a - b, sequence by sequence; the same seed gives the same interval."""
    means = (a - b).mean(axis=1)
    count, mean = len(means), float(means.mean())
    if count < 2:
        return Difference(mean, None, None, None, None)
    resampled = bootstrap_means(means, seed)
    low, high = np.quantile(resampled, [0.025, 0.975])
    # A tie counts half for either side, so that equal models give 0.5.
    below = float((resampled < 0).mean() + 0.5 * (resampled == 0).mean())
    se = float(means.std(ddof=1) / math.sqrt(count))
    return Difference(mean, se, float(low), float(high), max(below, 1 - below))


def bootstrap_means(means: Values, seed: int, resamples: int = RESAMPLES) -> Values:
    """Means of ``resamples`` draws, with replacement, of as many sequences as there are."""
    random = np.random.Generator(np.random.PCG64(seed))
    count = len(means)
    at_once = max(_BLOCK // count, 1)
    found = np.empty(resamples)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        found[start : start + size] = means[random.integers(0, count, (size, count))].mean(axis=1)
    return found


def proportion_error(share: float, count: int) -> float:
    """Standard error of a share of ``count`` independent answers."""
    return math.sqrt(share * (1 - share) / count)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value that answers which only one of two models got right fall evenly.

    Exact up to 1,000 of them, beyond that by the chi-squared form with continuity correction.
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    if count == 0:
        return 1.0
    if count > 1000:
        z = max(abs(only_first - only_second) - 1, 0) / math.sqrt(count)
        return math.erfc(z / math.sqrt(2))
    tail = sum(math.comb(count, i) for i in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**count))

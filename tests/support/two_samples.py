"""Whether two samples come from one distribution: the Kolmogorov-Smirnov test, and what an observer could make of them.

    D = max over x of |F_a(x) - F_b(x)|,  p = 2 sum over k >= 1 of (-1)^(k-1) exp(-2 k^2 l^2),  l = D sqrt(n m / (n + m))

is the asymptotic form (N. Smirnov, 1948), which leans to larger p where samples are small or have ties. verify() holds
it against his table and against samples worked out by hand.
"""
import numpy as np


def smirnov(distance):
    """The probability that a scaled distance l is exceeded by chance."""
    if distance < 0.2:
        return 1.0  # 1 - 5e-13 at 0.2; the sum below converges slowly
    k = np.arange(1, 101)
    return float(min(1.0, 2 * np.sum((-1.0) ** (k - 1) * np.exp(-2 * (k * distance) ** 2))))


def kolmogorov(a, b):
    """-> (D, p)"""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    d = float(np.max(np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b))))
    return d, smirnov(d * np.sqrt(len(a) * len(b) / (len(a) + len(b))))


def precedence(a, b):
    """The probability that one of a is below one of b, ties half: how often who sees one of each tells them apart."""
    b = np.sort(b)
    above = len(b) - np.searchsorted(b, a, "right")
    ties = np.searchsorted(b, a, "right") - np.searchsorted(b, a, "left")
    return float(np.mean(above + 0.5 * ties) / len(b))


def least_shift(a, b, level, most):
    """How much less a had to be, at most `most`, for p to fall below the level: what would have been seen."""
    low, high = 0.0, most
    for _ in range(30):
        middle = (low + high) / 2
        if kolmogorov(a - middle, b)[1] < level:
            high = middle
        else:
            low = middle
    return high


def verify():
    for distance, expected in ((1.22385, 0.10), (1.35810, 0.05), (1.62762, 0.01), (1.94947, 0.001), (2.22536, 0.0001)):
        assert abs(smirnov(distance) / expected - 1) < 1e-3, (distance, smirnov(distance))
    assert smirnov(0.1) == 1.0 and smirnov(0.5) > 0.96, "far too near to be told apart"
    d, p = kolmogorov(np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6]))
    assert d == 0.5 and abs(p - 0.6994) < 1e-3, (d, p)  # l = 0.5 sqrt(2)
    d, p = kolmogorov(np.zeros(5), np.ones(7))
    assert d == 1.0 and p < 0.01, (d, p)
    assert kolmogorov(np.ones(9), np.ones(9)) == (0.0, 1.0)
    draw = np.random.default_rng(3)
    one, other = draw.normal(size=2000), draw.normal(size=2000)
    assert kolmogorov(one, other)[1] > 0.01 and kolmogorov(one - 0.3, other)[1] < 1e-6
    assert precedence(np.array([1.0, 2]), np.array([2.0, 3])) == 0.875
    assert 0.02 < least_shift(one, other, 0.01, 10.0) < 0.3

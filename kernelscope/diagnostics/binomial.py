r"""The interval of a share of points, where one run is all there is.

A share p of n points has the score interval of Wilson: all shares :math:`\pi` with
:math:`|p - \pi| \le z\sqrt{\pi(1 - \pi)/n}`. It says what other points would have given, and not another run.
"""

from __future__ import annotations

import math

from .winners import Interval

__all__ = ["binomial"]

#: The quantile of the normal distribution that leaves out 2.5 %.
NORMAL = 1.96


def binomial(share: float, count: int) -> Interval:
    """The 95 % interval of a share of ``count`` points; not known of none, and of a share that is not.

    References:
        "Probable Inference, the Law of Succession, and Statistical Inference" (Wilson, 1927).

    Example:
        >>> print(binomial(0.5, 100))
        0.5000 (0.4038 to 0.5962)
    """
    if math.isnan(share) or count < 1:
        return Interval(share, math.nan, math.nan)
    z = NORMAL**2 / count
    middle, off = share + z / 2, math.sqrt(z * share * (1 - share) + z * z / 4)
    # At its ends a rounding would leave out the share itself.
    return Interval(share, min(share, (middle - off) / (1 + z)), max(share, (middle + off) / (1 + z)))

"""Folds: the same years tested block by block, each time with everything else but two gaps to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..common.errors import EarthSSLError
from .splits import Dates, SplitsConfig, period

DAYS_A_MONTH = 30  # of the embargo: from four months on, no run of months has fewer


@dataclass(frozen=True)
class FoldsConfig:
    """Cross-validation by blocks of time.

    The months are cut into `count` test blocks, of whole years where they begin in January. Around each lies a gap;
    what is left is trained on, but for a validation block at the outer end of the longer side (of equal ones the later)
    and a gap before it. A piece shorter than a gap holds no window with its target and is left out.

    Attributes:
        first, last: First and last month of all that is tested, chosen on and trained on.
        count: Number of test blocks.
        gap_months: Months between a test block and what is learnt from, and between training and validation: at least
            window + longest lead + 1.
        val_months: Length of the validation block.
    """

    first: str
    last: str
    gap_months: int
    count: int = 5
    val_months: int = 72

    def splits(self) -> list[SplitsConfig]:
        """Return the blocks of every fold.

        Raises:
            EarthSSLError: If a date cannot be read, a number is too small, or a fold has no room for its blocks.
        """
        start, end = (
            int(edge.astype("datetime64[M]").astype(int)) for edge in period("folds", [self.first, self.last])
        )
        months = end - start + 1
        for name, least in (("count", 2), ("gap_months", 4), ("val_months", 12)):
            if getattr(self, name) < least:
                raise EarthSSLError(f"folds.{name}: expected at least {least}, got {getattr(self, name)}")
        if months < 24 * self.count:
            raise EarthSSLError(
                f"folds.count: expected at least two years a test block, got {self.count} blocks of {months} months; "
                "take fewer"
            )
        step = 12 if start % 12 == 0 else 1
        cuts = [start + step * round(k * months / (step * self.count)) for k in range(self.count)] + [end + 1]
        return [self._fold(k, start, end, cuts[k], cuts[k + 1] - 1) for k in range(self.count)]

    def _fold(self, k: int, start: int, end: int, first: int, last: int) -> SplitsConfig:
        """Return the blocks of the fold that is tested from `first` to `last`, months since 1970."""
        gap, val = self.gap_months, self.val_months
        sides = [(start, first - gap - 1), (last + gap + 1, end)]
        right = sides[1][1] - sides[1][0] >= sides[0][1] - sides[0][0]
        a, b = sides[right]
        if right:
            chosen, sides[1] = (b - val + 1, b), (a, b - val - gap)
        else:
            chosen, sides[0] = (a, a + val - 1), (a + val + gap, b)
        train = [side for side in sides if side[1] - side[0] + 1 >= gap]
        if not train or b - a + 1 < val:
            raise EarthSSLError(
                f"folds: fold {k + 1}, tested {_dates(first, last)}, has no room for {val} months of validation and "
                f"{gap} of training beside gaps of {gap}; take more and shorter test blocks, or a shorter val_months"
            )
        blocks = [_dates(*side) for side in train]
        return SplitsConfig(
            blocks[0] if len(blocks) == 1 else blocks, _dates(*chosen), _dates(first, last), DAYS_A_MONTH * gap
        )


def _dates(first: int, last: int) -> Dates:
    return str(np.datetime64(first, "M")), str(np.datetime64(last, "M"))

"""Dates as tensor arithmetic: what an encoder's climatology and encodings take of a time, for exported files."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checkpoint.record import Record
from ..fields.month_stamps import DAY_S, NEAR_S

PARTS = ("row of the climatology", "day of the year", "second of the day", "stamp")


class Dates(nn.Module):
    """What a record's climatology and encodings take of times.

    Attributes:
        rows: Row of the climatology by month (1–12) or hour (0–23), -1 where training saw none.
    """

    rows: Tensor

    def __init__(self, record: Record) -> None:
        super().__init__()
        statistics = record.statistics
        self.monthly, self.stamp_s = statistics.groups == "month", record.stamp_s
        rows = torch.full((13 if self.monthly else 24,), -1, dtype=torch.int64)
        rows[list(statistics.keys)] = torch.arange(len(statistics.keys))
        self.register_buffer("rows", rows)

    def forward(self, seconds: Tensor) -> Tensor:
        """Return `PARTS` of each time, int64 (…, 4): row (-1: unknown), days since 1 January, seconds, stamped time.

        Args:
            seconds: int64, since 1970-01-01 UTC, any shape.
        """
        days = whole(seconds, DAY_S)
        month, day_of_year, day_of_month = calendar(days)
        of_day = seconds - days * DAY_S
        row = self.rows[month if self.monthly else whole(of_day, 3600)]
        stamped = self._stamped(seconds, (days - day_of_month) * DAY_S)
        return torch.stack([row, day_of_year, of_day, stamped], -1)

    def _stamped(self, seconds: Tensor, begin: Tensor) -> Tensor:
        """Return what `month_stamps.stamped` gives, from the beginning of each month."""
        if self.stamp_s is None:
            return seconds
        return torch.where((seconds - begin - self.stamp_s).abs() > NEAR_S, begin + self.stamp_s, seconds)


def whole(x: Tensor, by: int) -> Tensor:
    """Return x / by rounded down, int64, exact below 2^53 in size wherever it is written to.

    The writer of ONNX turns a division of whole numbers that rounds down into one of float32. The remainder stays
    whole; a multiple of the divisor is divided without rounding, in double precision.
    """
    return ((x - torch.remainder(x, by)).double() / by).long()


def calendar(days: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the month (1–12) and the days since 1 January and since the month's first, of any shape.

    Args:
        days: Gregorian days since 1970-01-01.

    Years are counted from March, so that the leap day comes last; eras are the 400 years after which the calendar
    repeats itself. Whole numbers only; right from the year 1 on.
    """
    since = days + 719468  # since 1 March of the year 0
    in_era = torch.remainder(since, 146097)
    year = whole(in_era - whole(in_era, 1460) + whole(in_era, 36524) - whole(in_era, 146096), 365)
    from_march = in_era - (365 * year + whole(year, 4) - whole(year, 100))
    march_month = whole(5 * from_march + 2, 153)
    early = march_month >= 10  # January and February belong to the next year
    month = torch.where(early, march_month - 9, march_month + 3)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    of_year = torch.where(early, from_march - 306, from_march + 59 + leap.to(days.dtype))
    return month, of_year, from_march - whole(153 * march_month + 2, 5)

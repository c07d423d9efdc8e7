"""Splits: whole blocks of time for training, validation and test, with an embargo between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..common.errors import EarthSSLError, nearest

PARTS = ("train", "val", "test")
Block = tuple[np.datetime64, np.datetime64]
Dates = tuple[str | int, str | int]
FIRST_YEAR, LAST_YEAR = 1678, 2261  # whole years that datetime64[ns] holds; others wrap round in silence
DAY = np.timedelta64(1, "D")
MONTH_DAYS = 365.2425 / 12


@dataclass(frozen=True)
class SplitsConfig:
    """Blocks of time as dates in words, both ends included ("1983" means to the end of 1983).

    Attributes:
        train: First and last date of the training block, or a list of such blocks, on either side of the others:
            statistics and weights see these times only.
        val: First and last date of the validation block: selection happens here.
        test: First and last date of the test block: read once, for the table.
        embargo_days: Least number of days between two blocks: at least input window + lead; none is needed between two
            training blocks.
    """

    train: Dates | list[Dates]
    val: Dates
    test: Dates
    embargo_days: float

    def build(self) -> Splits:
        """Return the blocks as UTC instants.

        Raises:
            EarthSSLError: If a date cannot be read or two blocks lie closer than the embargo.
        """
        train: Any = self.train
        several = bool(train) and all(isinstance(dates, list | tuple) for dates in train)
        blocks = [period("splits.train", dates) for dates in (train if several else [train])]
        val, test = (period(f"splits.{part}", getattr(self, part)) for part in PARTS[1:])
        return Splits(blocks, val, test, float(self.embargo_days))


def held(first: np.datetime64, last: np.datetime64) -> bool:
    """Return whether datetime64[ns] holds the years of two dates, and those between them."""
    return bool(
        min(first, last) >= np.datetime64(f"{FIRST_YEAR}") and max(first, last) < np.datetime64(f"{LAST_YEAR + 1}")
    )


def period(name: str, dates: Sequence[str | int]) -> Block:
    """Return the first and last instant (ns) of two dates, the end widened to the end of its day, month or year.

    Args:
        name: Of the setting, for errors.
        dates: First and last, such as 1983, 1983-12 or 1983-12-31.

    Raises:
        EarthSSLError: If they cannot be read, lie outside 1678…2261, or the first is the later.
    """
    try:
        start, end = (np.datetime64(str(date)) for date in dates)
        if np.isnat([start, end]).any():
            raise ValueError("not a time")
    except (ValueError, TypeError) as error:
        raise EarthSSLError(f"{name}: expected two dates such as 1983-12, got {list(dates)} ({error})") from None
    if not held(start, end):
        raise EarthSSLError(f"{name}: expected dates within {FIRST_YEAR}…{LAST_YEAR}, got {list(dates)}; choose others")
    last = (end + 1).astype("datetime64[ns]") - np.timedelta64(1, "ns")
    first = start.astype("datetime64[ns]")
    if first > last:
        raise EarthSSLError(f"{name}: starts {dates[0]} after its end {dates[1]}; swap the two dates")
    return first, last


@dataclass(frozen=True, init=False)
class Splits:
    """Blocks of time, each (first, last) instant, datetime64[ns], both included: train (one or several), val and test.

    Attributes:
        train_blocks: Those of training, ascending; see also `train`.
        val, test: Of validation and test.
        embargo_days: Least number of days between two blocks that are not both of training.
    """

    train_blocks: tuple[Block, ...]
    val: Block
    test: Block
    embargo_days: float

    def __init__(self, train: Block | Sequence[Block], val: Block, test: Block, embargo_days: float) -> None:
        """Put the blocks together.

        Args:
            train: One block, or several in any order.
            val, test, embargo_days: As above.

        Raises:
            EarthSSLError: If two blocks share a time, or lie closer than the embargo.
        """
        blocks: Any = (train,) if len(train) == 2 and isinstance(train[0], np.datetime64) else tuple(train)
        if not blocks:
            raise EarthSSLError("splits.train: expected a block of time, or a list of some, got none; name one")
        object.__setattr__(self, "train_blocks", tuple(sorted((block[0], block[1]) for block in blocks)))
        for name, value in (("val", val), ("test", test), ("embargo_days", embargo_days)):
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if not self.embargo_days >= 0:
            raise EarthSSLError(
                f"splits.embargo_days: expected days from 0, got {self.embargo_days}; take input window + lead"
            )
        for (earlier, a), (later, b) in self.neighbours():
            days = float((_exact(b)[0] - _exact(a)[1]) / DAY)
            if earlier.startswith("train") and later.startswith("train"):
                if b[0] <= a[1]:
                    raise EarthSSLError(
                        f"splits.train: {earlier} ends {_date(a[1])} and {later} starts {_date(b[0])}; expected blocks "
                        "that share no time: move one, or make one of both"
                    )
            elif days < self.embargo_days:
                raise EarthSSLError(
                    f"splits: {earlier} ends {_date(a[1])} and {later} starts {_date(b[0])}, "
                    f"{days:.0f} days apart, but embargo_days is {self.embargo_days:g}; "
                    "move a block or shorten the embargo (never below input window + lead)"
                )

    @property
    def train(self) -> Block:
        """The training block, where there is one: whoever asks for it cannot deal with several.

        Raises:
            EarthSSLError: If there are several.
        """
        if len(self.train_blocks) > 1:
            said = ", ".join(f"{_date(first)} … {_date(last)}" for first, last in self.train_blocks)
            raise EarthSSLError(
                f"splits.train: expected one training block, got {len(self.train_blocks)} ({said}), with which this "
                "cannot deal; prepare a store with one"
            )
        return self.train_blocks[0]

    def blocks(self, part: str) -> tuple[Block, ...]:
        """Return the blocks of "train", "val", "test" or "fit", ascending; only training has several.

        Raises:
            EarthSSLError: If there is no such part, or no fit period.
        """
        if part not in (*PARTS, "fit"):
            raise EarthSSLError(f"expected a part out of {', '.join(PARTS)}, got '{part}'." + nearest(part, PARTS))
        return self.train_blocks if part == "train" else (getattr(self, part),)

    def named(self) -> dict[str, Block]:
        """Return every block by its name: train (of several: train 1, train 2, …), val, test."""
        train, several = self.train_blocks, len(self.train_blocks) > 1
        own = {f"train {k}" if several else "train": block for k, block in enumerate(train, 1)}
        return own | {"val": self.val, "test": self.test}

    def neighbours(self) -> list[tuple[tuple[str, Block], tuple[str, Block]]]:
        """Return the blocks that follow each other in time, as pairs of (name, block), see `named`."""
        return list(pairwise(sorted(self.named().items(), key=lambda item: item[1][0])))

    @property
    def fit(self) -> Block:
        """Training and validation together, first to last instant: what a final refit may see.

        Raises:
            EarthSSLError: If the test block lies between the two, or there are several training blocks.
        """
        first, last = min(self.train[0], self.val[0]), max(self.train[1], self.val[1])
        if first <= self.test[0] <= last:
            raise EarthSSLError("splits: the test block lies between train and val; no fit period holds both")
        return first, last

    def earlier(self, step_days: float) -> Splits:
        """Return the blocks moved back by one, for a rehearsal of a test.

        The test block is the validation block of these; validation is as long a part of the end of training, and what
        comes before it, by at least the gap that lay between them, is trained on.

        Args:
            step_days: Days from one time of the data to the next.

        Raises:
            EarthSSLError: If validation does not follow training, less than half of training would be left, or there
                are several training blocks.
        """
        if len(self.train_blocks) > 1:
            raise EarthSSLError(
                f"splits: expected one training block for a rehearsal one block earlier, got {len(self.train_blocks)}; "
                "set uncertainty: false"
            )
        (begin, end), val = _exact(self.train), _exact(self.val)
        length, gap = val[1] - val[0], val[0] - end
        # months and their like are of different lengths
        first, last = end - length, end - length - gap - np.timedelta64(round(2 * step_days * 86400), "s")
        if gap <= np.timedelta64(0) or last - begin < (end - begin) / 2:
            raise EarthSSLError(
                f"splits: expected training before validation, half of which is left without a block like the "
                f"validation's ({length / DAY:.0f} days) and the gap ({gap / DAY:.0f} days) at its end, got "
                f"{(end - begin) / DAY:.0f} days; set uncertainty: false, or shorten validation"
            )
        first, last = (instant.astype("datetime64[ns]") for instant in (first, last))
        return Splits((self.train[0], last), (first, self.train[1]), self.val, self.embargo_days)

    def inside(self, times: np.ndarray, part: str) -> np.ndarray:
        """Return a mask of the times (datetime64) that lie in the named part, same length as `times`."""
        return np.asarray(self.block_of(times, part) >= 0)

    def block_of(self, times: np.ndarray, part: str) -> np.ndarray:
        """Return the number of the block of the named part that each time lies in, from 0; -1 outside of all."""
        found = np.full(np.shape(times), -1)
        for k, (first, last) in enumerate(self.blocks(part)):
            found[(times >= first) & (times <= last)] = k
        return found

    def proof(self, times: np.ndarray) -> dict[str, Any]:
        """Return what was checked, as plain JSON: each block's times, and the gaps between blocks.

        Raises:
            EarthSSLError: If a block holds no time of the data.
        """
        record: dict[str, Any] = {"embargo_days": self.embargo_days, "blocks": {}, "gaps_days": {}}
        for name, (first, last) in self.named().items():
            chosen = times[(times >= first) & (times <= last)]
            if not len(chosen):
                raise EarthSSLError(
                    f"splits.{name} ({_date(first)} … {_date(last)}) holds no time of the data, "
                    f"which go from {_date(times[0])} to {_date(times[-1])}; choose blocks inside the data"
                )
            record["blocks"][name] = {"first": str(chosen[0]), "last": str(chosen[-1]), "steps": len(chosen)}
        apart = True
        for (earlier, _), (later, _) in self.neighbours():
            a = np.datetime64(record["blocks"][earlier]["last"], "us")
            b = np.datetime64(record["blocks"][later]["first"], "us")
            gap = record["gaps_days"][f"{earlier}–{later}"] = float((b - a) / DAY)
            apart &= gap >= self.embargo_days or (earlier.startswith("train") and later.startswith("train"))
        record["disjoint"] = apart
        return record

    def to_json(self) -> dict[str, Any]:
        """Return the blocks as ISO dates, a list of blocks for several of training; `from_json` is the inverse."""
        train = [[str(instant) for instant in block] for block in self.train_blocks]
        blocks = {part: [str(instant) for instant in getattr(self, part)] for part in PARTS[1:]}
        return {"train": train if len(train) > 1 else train[0], **blocks, "embargo_days": self.embargo_days}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Splits:
        """Return the splits that `to_json` wrote.

        Raises:
            ValueError: If a block is no pair of instants, the first not later than the last.
            EarthSSLError: If the blocks do not fit together.
        """

        def block(dates: Any) -> Block:
            first, last = (np.datetime64(text, "ns") for text in dates)
            if not first <= last:
                raise ValueError(f"expected a block that starts before its end, got {first} and {last}")
            return first, last

        train = record["train"]
        several = all(isinstance(dates, list) for dates in train)
        return cls([block(dates) for dates in train] if several else block(train), block(record["val"]),
                   block(record["test"]), record["embargo_days"])  # fmt: skip


def _exact(block: Block) -> Block:
    """Return a block in microseconds: nanoseconds hold 292 years, and a longer difference wraps round in silence."""
    return block[0].astype("datetime64[us]"), block[1].astype("datetime64[us]")


def _date(instant: np.datetime64) -> str:
    return str(instant.astype("datetime64[D]"))


def gap_days(a: Block, b: Block) -> float:
    """Return the days between two blocks; 0 or less where they meet."""
    (first, last), (begin, end) = _exact(a), _exact(b)
    return float(max(begin - last, first - end) / DAY)


def is_monthly(times: np.ndarray) -> bool:
    """Whether the times (datetime64) are calendar months: typical spacing of 28 to 31 days."""
    return months_apart(times) == 1


FEWEST = 8  # steps that tell what is usual
EVEN = 5  # steps; of months stamped in their middle, four are equal at most


def months_apart(times: np.ndarray) -> int:
    """Return how many calendar months lie between the steps (1, 2, 3, 4, 6 or years), 0 where they are no months."""
    if len(times) < 2:
        return 0
    steps = np.diff(times)
    step_days = float(np.median(steps / DAY))
    months = round(step_days / MONTH_DAYS)
    if months == 1 and len(steps) >= EVEN and (steps == steps[0]).all():
        return 0  # every 30 days: the lengths of months change sooner
    if months == 1:
        return int(28 <= step_days <= 31)
    # the spacing of whole months varies by two days (December to February), that of years by one
    whole = months in (2, 3, 4, 6) or (months > 0 and months % 12 == 0)
    return months if whole and abs(step_days - months * MONTH_DAYS) <= 3 else 0


REGULAR = 0.9  # share of steps that are the usual one, to a quarter, from which on a short one is a copy
SHORT = 0.6  # of the usual step


def repeated_step(times: np.ndarray) -> tuple[str, np.datetime64, np.datetime64] | None:
    """Return what is there twice, and the first two times (ascending datetime64) that stand for it; None for nothing.

    Months, seasons and years are there twice where two steps lie in one; of other regular steps, where two lie nearer
    than `SHORT` of a step: where sources meet that stamp the same day at 0 and at 12 h. A last period of the year that
    1 January cuts short is none.
    """
    months, steps = months_apart(times), np.diff(times)
    if months == 1:
        same = np.flatnonzero(np.diff(times.astype("datetime64[M]").astype(np.int64)) == 0)
        return ("month", times[same[0]], times[same[0] + 1]) if len(same) else None
    if len(steps) < FEWEST:
        return None
    usual = float(np.median(steps / DAY))
    size = steps / DAY / usual
    if not months and (np.abs(size - 1) <= 0.25).mean() < REGULAR:
        return None
    days = times[1:].astype("datetime64[D]")
    cut = (days == days.astype("datetime64[Y]")) & (usual > 1)
    short = np.flatnonzero((size < SHORT) & (~cut | (months > 0)))
    if not len(short):
        return None
    what = f"{months} months" if months else f"{usual:g} days" if usual >= 1 else f"{24 * usual:.4g} hours"
    what = {"12 months": "year", "3 months": "season", "1 days": "day", "1 hours": "hour"}.get(what, f"step of {what}")
    return what, times[short[0]], times[short[0] + 1]


def follows(times: np.ndarray) -> np.ndarray:
    """Return, for each time but the last, whether the next one is exactly one step later.

    The step is so many calendar months where the spacing is that of months, seasons or years; a part of the month
    for ten-day and half-month periods and the like; else the median spacing. A 29 February that the data leave out
    everywhere is no gap, nor is a last period of the year that 1 January cuts short.
    """
    months = months_apart(times)
    steps = np.diff(times)
    if not len(steps):
        return np.zeros(0, bool)
    step = np.sort(steps)[len(steps) // 2]
    regular = steps == step
    if months:
        index = times.astype("datetime64[M]").astype(np.int64)
        return (np.diff(index) == months) | (regular & (months > 1))
    parts = _parts_of_month(times, steps)
    if parts:
        return np.diff(parts) == 1
    if step < DAY.astype(step.dtype):
        return np.asarray(regular)
    days = times.astype("datetime64[D]")
    leap = (days[1:] > _leap_day(days[1:])) & (days[:-1] < _leap_day(days[1:])) & (steps == step + DAY)
    february = days.astype("datetime64[M]").astype(np.int64) % 12 == 1
    leaves_out = not (february & (days == _leap_day(days))).any()
    cut = (days[1:] == days[1:].astype("datetime64[Y]")) & (steps < step) & (step > DAY)
    return regular | (leap & leaves_out) | cut


def _leap_day(days: np.ndarray) -> np.ndarray:
    """Return the 29 February of each day's year (1 March in other years), datetime64[D]."""
    return days.astype("datetime64[Y]").astype("datetime64[D]") + 59 * np.timedelta64(1, "D")


def _parts_of_month(times: np.ndarray, steps: np.ndarray) -> list[int]:
    """Return the number of each half (third, sixth) of a month since 1970, [] where the times are none."""
    typical = float(np.median(steps) / DAY)
    parts = {15: 2, 16: 2, 10: 3, 5: 6}.get(round(typical))
    if parts is None or (steps == steps[0]).all():
        return []
    days = (times.astype("datetime64[D]") - times.astype("datetime64[M]").astype("datetime64[D]")).astype(int)
    part = np.minimum(days // (30 // parts), parts - 1)
    inside = [np.unique(days[part == k]) for k in range(parts)]
    # each part of the month is stamped on the same day of it, give or take what the length of the month moves: two days
    # in the middle of the last part, three at its end
    if any(len(found) and np.ptp(found) > 2 + (k == parts - 1) for k, found in enumerate(inside)):
        return []
    return (times.astype("datetime64[M]").astype(np.int64) * parts + part).tolist()


def unbroken_starts(times: np.ndarray, length: int) -> np.ndarray:
    """Return the first indices of all windows of `length` steps with no gap in time; empty where none fits."""
    if len(times) < length:
        return np.zeros(0, np.int64)
    gaps_before = np.concatenate([[0], np.cumsum(~follows(times))])
    starts = np.arange(len(times) - length + 1)
    return starts[gaps_before[starts + length - 1] == gaps_before[starts]]


def window_starts(times: np.ndarray, splits: Splits, part: str, length: int) -> np.ndarray:
    """Return the first indices of all windows of `length` unbroken steps wholly inside one block of a part.

    Raises:
        EarthSSLError: If not one window fits.
    """
    block, starts = splits.block_of(times, part), unbroken_starts(times, length)
    first, last = block[starts], block[starts + length - 1]
    chosen = starts[(first >= 0) & (first == last)]
    if not len(chosen):
        raise EarthSSLError(
            f"no window of {length} steps fits in splits.{part}, which holds {int((block >= 0).sum())} steps "
            "(gaps in time break windows); shorten the window or widen the block"
        )
    return chosen

"""The label curve: what each row reaches when fewer of the labels are read, which is the question a user has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ...ssl.common.progress import track
from ..results.row import Row
from ..results.scores import joined, tables
from ..results.target import Target
from .label_fractions import Fraction

MEANS = ("row", "target", "metric", "asked", "used", "value", "low", "high")
DIFFERENCES = ("row", "reference", "target", "metric", "asked", "used", "value", "low", "high", "verdict")
DRAWS = ("row", "seed", "target", "metric", "asked", "used", "value")
WORDS = (
    "Skill by share of the training labels, the mean over draws and seeds; bands are 95 % intervals over test units. "
    "Curves of networks trained on the labels are means over {some} of the {all} draws, all others over {all}: compare "
    "them by their pairs, which are of the same labels (label_curve_differences.csv), not by the height of the curves."
)


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores by share of the labels.

    Attributes:
        means: Columns of `MEANS`: mean over draws and seeds, with its interval over test units, given the draws.
        differences: Columns of `DIFFERENCES`, paired, of the same means.
        draws: Columns of `DRAWS`: the score of each draw and seed.
    """

    means: pd.DataFrame
    differences: pd.DataFrame
    draws: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by file name; none without a curve."""
        named = {
            "label_curve": self.means,
            "label_curve_differences": self.differences,
            "label_curve_draws": self.draws,
        }
        return {name: table for name, table in named.items() if len(table)}


def label_curve(
    shares: Sequence[Fraction],
    rows: Sequence[Row],
    fitted: Callable[[Row, np.ndarray], Row],
    scratch: Callable[[np.ndarray], Iterable[Row]],
    targets: Sequence[Target],
    *,
    scratch_draws: int,
    draws: int,
) -> Curve:
    """Return what rows reach on shares of the training units; within a draw the smaller shares are parts of the larger.

    Features stay as with all labels, settings are chosen on the whole validation block, and nothing is refitted: the
    curve shows what fewer labels to fit on cost, not fewer labels to choose with. Networks are trained on the first
    draws only, and compared with the other rows on these: a pair reads the same labels.

    Args:
        shares: Of the training units, see `label_fractions`.
        rows: To be followed, as fitted with all labels.
        fitted: Returns a row anew, from the labels of some units.
        scratch: Returns the networks trained on the labels of some units.
        targets: What is forecast; only the first metric of each is drawn.
        scratch_draws: Draws that networks are trained on.
        draws: Of the bootstrap.
    """
    first = [replace(target, metrics=target.metrics[:1]) for target in targets]
    means, differences, singles = [], [], []
    done: dict[tuple[int, int], list[Row]] = {}
    every = sorted({share.asked for share in shares})
    for asked in track(every, "label curve") if every else ():
        own = [share for share in shares if share.asked == asked]
        for share in own:
            # Of few units, several shares are one and the same.
            if (share.draw, len(share.years)) not in done:
                new = [_drawn(fitted(row, share.years), row.name, share) for row in rows]
                if share.draw < scratch_draws:
                    new += [_drawn(row, row.name, share) for row in scratch(share.years)]
                done[share.draw, len(share.years)] = new
        made = [row for share in own for row in done[share.draw, len(share.years)]]
        shared = [row for share in own if share.draw < scratch_draws for row in done[share.draw, len(share.years)]]
        scores, paired = tables(first, made, draws=draws)
        if 0 < len(shared) < len(made):
            paired = _on_same_labels(paired, tables(first, shared, draws=draws)[1], {row.name for row in rows})
        place = {"asked": asked, "used": own[0].used}
        alone = scores["seed"] != ""
        means.append(scores[~alone].assign(**place))
        singles.append(scores[alone].assign(**place))
        differences.append(paired.assign(**place))
    return Curve(joined(means, MEANS), joined(differences, DIFFERENCES), joined(singles, DRAWS))


def _on_same_labels(paired: pd.DataFrame, shared: pd.DataFrame, names: set[str]) -> pd.DataFrame:
    """Return the pairs of the followed rows from all draws, those with a network from the draws that it has."""

    def followed(pairs: pd.DataFrame) -> pd.Series:
        return pairs["row"].isin(names) & pairs["reference"].isin(names)

    return pd.concat([paired[followed(paired)], shared[~followed(shared)]], ignore_index=True)


def _drawn(row: Row, name: str, share: Fraction) -> Row:
    return replace(row, name=name, seed=f"draw {share.draw}" + ("" if row.seed is None else f", seed {row.seed}"))

"""Health of an encoder: has it collapsed, and is what it encodes more than season, place and trend?"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from ..common.errors import EarthSSLError

# Share of the effective rank at the start that must be left. Masking on the planet, stopped after 300 steps, had
# fallen from 20 to 6 dimensions and was worth less than untrained; trained long it had 21, and was worth more.
RANK_KEPT = 0.5
# Features that vary less about their mean, but in more directions than at the start, are no collapse: heads standardise
# them. Prediction in time on the weather planet went from std .49 to .10 and rank from 11 to 24, and beat every rival.
# Of the std at the start this much must be left, or what varies may be noise; not known: this std.
SHARE_LEFT, SPREAD_LEFT = 0.15, 0.05


@dataclass(frozen=True)
class Health:
    """What the features of a set of windows look like.

    Attributes:
        std: Mean over the features of their standard deviation, of l2-normalised features × sqrt(width):
            1 for features spread evenly, 0 for a constant (Chen & He 2021, arXiv 2011.10566).
        effective_rank: exp of the entropy of the centred features' normalised singular values
            (Roy & Vetterli 2007); between 1 and the width.
        mean_cosine: Mean cosine between the features of different windows, uncentred: 1 if all point one way.
        season_share: Share of the variance of windows' mean features that the calendar month explains,
            corrected for the number of months.
        trend_share: The same for a straight line in time.
        place_share: Share of the variance of tokens that the token's place explains.
    """

    std: float
    effective_rank: float
    mean_cosine: float
    season_share: float
    trend_share: float
    place_share: float

    def warnings(self, width: int, start: Health | None = None) -> list[str]:
        """Return what is wrong, in words; empty where nothing is.

        Features that never were spread out (tokens share their positions' constants, so pooled ones point
        much the same way in an untrained network, too) are no collapse: with the health at the `start` of
        training given, what counts is what was lost since; of the effective rank, more than half. A smaller spread
        counts for nothing while the effective rank is above that of the start (or, not known, above width / 8).
        """
        said = []
        if start is None:  # a rank next to the width is that of noise
            richer = width / 8 < self.effective_rank < 3 * width / 4 and self.std > SPREAD_LEFT
        else:
            richer = self.effective_rank > start.effective_rank and self.std > SHARE_LEFT * start.std
        if not richer and self.std < (0.1 if start is None else max(0.005, 0.3 * start.std)):
            said.append(f"features hardly vary between windows (std {self.std:.3f}): the encoder has collapsed")
        if self.effective_rank < (
            max(2.0, 0.03 * width) if start is None else max(2.0, RANK_KEPT * start.effective_rank)
        ):
            said.append(f"features fill {self.effective_rank:.1f} of {width} dimensions: dimensional collapse")
        if not richer and 1 - self.mean_cosine < (0.01 if start is None else 0.1 * (1 - start.mean_cosine)):
            said.append(f"all windows point the same way (mean cosine {self.mean_cosine:.4f})")
        for name in ("season", "trend", "place"):
            share = getattr(self, f"{name}_share")
            if share > (0.9 if start is None else max(0.9, getattr(start, f"{name}_share") + 0.02)):
                said.append(f"{100 * share:.0f} % of the features' variance is {name}: climatological collapse")
        if start is not None and said:
            said[-1] += f" (at the start: std {start.std:.3f}, rank {start.effective_rank:.1f})"
        return said

    def to_json(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def measure(
    pooled: Float[np.ndarray, "window feature"],
    tokens: Float[np.ndarray, "window token feature"],
    months: np.ndarray,
    years: np.ndarray,
) -> Health:
    """Return the health of features.

    Args:
        pooled: Mean feature of each window.
        tokens: Features of some windows' tokens.
        months: Calendar month of each pooled window, 1 to 12.
        years: Time of each pooled window, years.

    Raises:
        EarthSSLError: If a feature is not finite: the training diverged.
    """
    x = pooled.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(tokens).all()):
        raise EarthSSLError(
            "the encoder's features are not finite: the training diverged; lower training.lr, or clip or warm up more"
        )
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.maximum(norm, 1e-12)
    n = len(unit)
    cosine = ((unit.sum(0) ** 2).sum() - (unit**2).sum()) / max(n * (n - 1), 1)
    centred = x - x.mean(0)
    scale = max(float(np.abs(x).max()), 1e-12)
    singular = np.linalg.svd(centred / scale, compute_uv=False)
    return Health(
        std=float(unit.std(0).mean() * np.sqrt(x.shape[1])),
        effective_rank=effective_rank(singular),
        mean_cosine=float(cosine),
        season_share=explained(x, np.eye(12)[months - 1]),
        trend_share=explained(x, np.stack([np.ones(n), years - years.mean()], 1)),
        place_share=_place_share(tokens.astype(np.float64)),
    )


def effective_rank(singular: Float[np.ndarray, " value"]) -> float:
    """Return exp(entropy) of the singular values as shares; 1 where there is no variance at all."""
    total = singular.sum()
    if total < 1e-9:
        return 1.0
    share = singular / total
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def explained(x: Float[np.ndarray, "window feature"], design: Float[np.ndarray, "window term"]) -> float:
    """Return the adjusted share of variance (over all features together) that a linear design explains."""
    centred = x - x.mean(0)
    total = (centred**2).sum()
    rank = int(np.linalg.matrix_rank(design))
    n = len(x)
    if total < 1e-24 or n <= rank:
        return 0.0
    fitted = design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    r2 = 1 - ((centred - fitted) ** 2).sum() / total
    return float(max(0.0, 1 - (1 - r2) * (n - 1) / (n - rank)))


def _place_share(tokens: Float[np.ndarray, "window token feature"]) -> float:
    """Return the share of the tokens' variance that lies between places rather than within one."""
    if len(tokens) < 2:
        return 0.0
    total = tokens.reshape(-1, tokens.shape[-1]).var(0).sum()
    if total < 1e-24:
        return 0.0
    between = tokens.mean(0).var(0).sum()
    within = tokens.var(0, ddof=1).mean(0).sum()
    # A mean over n windows still holds 1/n of the variance within; take it out.
    return float(np.clip((between - within / len(tokens)) / total, 0, 1))

"""The budget of studies that compare pretext tasks: settings by rule from the steps, and what a run made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..common.errors import EarthSSLError
from ..model.encoder import SIZES
from .config import STEADY, TrainingConfig

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
VALIDATIONS = 20
# Of a budget: the last part, in which a gain says that more steps would bring more.
LAST_PART = 0.25


@dataclass(frozen=True)
class StudyTraining(TrainingConfig):
    """How each task of an audit or a matrix is trained: until its validation skill stops rising, or to `steps`.

    As TrainingConfig, but that 0 leaves these settings to a rule: `lr` is 2e-3 at width 64, falls as 1 / width, and
    beyond 6000 steps as 1 / √steps; `warmup_steps` is a tenth of the steps; `val_every` a twentieth, and `save_every`
    the same. The rate is steady and the weights are averaged (see `schedule`), so an encoder is as good as its steps
    allow at whichever validation its training ends. `patience` 0 trains to `steps` in any case.
    """

    steps: int = 6000
    lr: float = 0.0
    warmup_steps: int = 0
    val_every: int = 0
    save_every: int = 0
    patience: int = 8
    schedule: str = STEADY
    gain: float = 0.002

    def __post_init__(self) -> None:
        self.by_rule(SIZES["nano"][0])  # which is checked

    def by_rule(self, width: int) -> TrainingConfig:
        """Return the settings for an encoder of this width, with numbers in place of the rules.

        Raises:
            EarthSSLError: If a setting makes no sense.
        """
        if self.steps < 2:
            raise EarthSSLError(f"training.steps: expected a whole number ≥ 2, got {self.steps}")
        every = self.val_every or math.ceil(self.steps / VALIDATIONS)
        ruled = {
            "lr": self.lr or 2e-3 * 64 / width * min(1.0, math.sqrt(6000 / self.steps)),
            "warmup_steps": self.warmup_steps or max(1, self.steps // 10),
            "val_every": every,
            "save_every": self.save_every or every,
        }
        return TrainingConfig(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **ruled})


@dataclass(frozen=True)
class Course:
    """Validation skill against steps of one training.

    Attributes:
        steps: Of its validations, ascending.
        skill: At each of them: mean over the tasks.
        budget: The stated number of steps.
        gain: The rise of skill that counts as one.
    """

    steps: np.ndarray
    skill: Float[np.ndarray, " validation"]
    budget: int
    gain: float

    @classmethod
    def read(cls, history: Path, training: TrainingConfig) -> Course:
        """Return the course that a run's history.csv holds; empty where no skill was logged.

        Raises:
            EarthSSLError: If there is no such file.
        """
        if not history.is_file():
            raise EarthSSLError(f"expected the history of a training at {history}, found none; train it anew")
        table = pd.read_csv(history)
        own = table[table["name"] == "val/skill"].drop_duplicates("step", keep="last").sort_values("step")
        return cls(own["step"].to_numpy(int), own["value"].to_numpy(float), training.steps, training.gain)

    @property
    def kept(self) -> int:
        """Step of the weights that were kept: the first with the highest skill; the budget where there is none."""
        return int(self.steps[np.nanargmax(self.skill)]) if np.isfinite(self.skill).any() else self.budget

    @property
    def taken(self) -> int:
        """Steps that were trained."""
        return int(self.steps[-1]) if len(self.steps) else self.budget

    @property
    def still_gaining(self) -> bool:
        """Whether it reached the budget while its skill rose: its last quarter holds more than all before."""
        if self.taken < self.budget or not np.isfinite(self.skill).any():
            return False
        early = self.skill[self.steps <= (1 - LAST_PART) * self.budget]
        return bool(len(early) == 0 or not np.nanmax(self.skill) <= np.nanmax(early) + self.gain)

    @property
    def ended(self) -> str:
        """Why it ended, in words."""
        if self.taken < self.budget:
            return "no more gain"
        return "budget spent, still gaining" if self.still_gaining else "budget spent"

    def at(self, fractions: Sequence[float] = FRACTIONS) -> list[float]:
        """Return the skill at the last validation up to each fraction of the budget, NaN before the first.

        Where the training ended earlier, it is that of the last validation before.
        """
        found = []
        for fraction in fractions:
            upto = self.skill[self.steps <= round(fraction * self.budget)]
            found.append(float(upto[-1]) if len(upto) else math.nan)
        return found

    def line(self) -> dict[str, float | str]:
        """Return one line of a table: steps taken and kept, why it ended, skill at fractions of the budget."""
        skills = {f"skill at {100 * f:g} %": value for f, value in zip(FRACTIONS, self.at(), strict=True)}
        return {"budget": self.budget, "taken": self.taken, "kept": self.kept, "ended": self.ended, **skills}

"""Where a trained encoder stands: validation skill of its pretext tasks beside that of cues that need no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..ssl.data.loaders import EvalLoader, TrainLoader
from ..ssl.data.windows import Windows
from ..ssl.store.store import Store
from ..ssl.training.config import TrainingConfig
from ..ssl.training.objective import SKILL, ObjectiveConfig
from ..ssl.training.pretrain import load_objectives

COLUMNS = ("task", "solver", "kind", "skill")
TRIVIAL = "the trivial answer"


def standing(
    checkpoint: Path,
    store: Store,
    training: TrainingConfig,
    tasks: dict[str, type[ObjectiveConfig]],
    eval_batch: int = 16,
    fit_batches: int = 30,
) -> pd.DataFrame:
    """Return the mean validation skill of each task of a checkpoint and of its analytic cues.

    Args:
        checkpoint: Its folder, with its heads.
        store: What it was trained on.
        training: How it was trained.
        tasks: The pretext tasks there are, by name.
        eval_batch: Windows in a validation batch.
        fit_batches: Training batches that cues are fitted on.

    Returns:
        Columns task, solver, kind ("task", "analytic", or "trivial": skill 0, which needs no data), skill; no row of a
        task that no validation batch poses.
    """
    encoder, objectives = load_objectives(checkpoint, tasks)
    train, val = (Windows(store, part, objectives.span, training.seed) for part in ("train", "val"))
    grouping = "spread" if objectives.compares and training.batches == "random" else training.batches
    size = min(eval_batch, len(val))
    batches = list(EvalLoader(val, size, grouping=grouping))
    loader = TrainLoader(train, training.batch_size, training.seed, grouping=training.batches)
    rows: list[dict[str, object]] = []
    patch = encoder.config.patch
    with torch.no_grad():
        for name, objective in objectives.tasks().items():
            outcomes = [objective(encoder, batch) for batch in batches]
            asked = [(batch, outcome) for batch, outcome in zip(batches, outcomes, strict=True) if outcome.posed]
            if not asked:
                continue
            own = float(np.mean([float(outcome.terms[SKILL]) for _, outcome in asked]))
            rows.append({"task": name, "solver": name, "kind": "task", "skill": own})
            rows.append({"task": name, "solver": TRIVIAL, "kind": "trivial", "skill": 0.0})
            for cue in objective.cues():
                cue.encoder = encoder
                cue.fit(objective, [loader.get(k) for k in range(fit_batches)], patch)
                skill = float(np.mean([cue.skill(objective, batch, patch) for batch, _ in asked]))
                rows.append({"task": name, "solver": cue.name, "kind": "analytic", "skill": skill})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def below_cue(found: pd.DataFrame) -> list[str]:
    """Return in words which tasks of a standing are below their best cue; a skill that is no number is below all."""
    said = []
    for name, own in found.groupby("task", sort=False):
        itself = float(own.loc[own["kind"] == "task", "skill"].iloc[0])
        cues = own[own["kind"] != "task"].set_index("solver")["skill"]
        if not itself >= float(cues.max()):
            said.append(f"{name} {itself:.2f}, {cues.idxmax()} {cues.max():.2f}")
    return said

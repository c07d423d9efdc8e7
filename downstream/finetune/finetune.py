"""finetune: a pretrained encoder tuned on a user's own labels, beside everything that the result must beat."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from threadpoolctl import threadpool_limits

from ...ssl.common.files import disk_full_is_clear, refuse_filled
from ...ssl.store.store import Store
from ..evaluation.task import summarise
from ..results.summary import Summary
from .config import FinetuningConfig
from .save import predictions, save_tuned
from .task import Finetuning, tuned_name


def finetune(config: FinetuningConfig, command: str = "") -> Path:
    """Fine-tune, and return the folder of the results: `checkpoint`, `predictions.nc`, the table and its page.

    Args:
        config: What to do.
        command: As typed, for the record.

    Raises:
        EarthSSLError: If checkpoint, store and labels do not fit together, or `out` is not empty.
    """
    refuse_filled(Path(config.out), "the results")
    # Many small problems: BLAS threads would only wait for one another.
    with threadpool_limits(1, "blas"):
        task = Finetuning(config, Store(config.store))
        print("\n".join(task.parent.transfer.lines()), file=sys.stderr)
        return _written(task, summarise(task), command)


def _written(task: Finetuning, summary: Summary, command: str) -> Path:
    """Write everything or nothing."""
    config, chosen, out = task.own, task.chosen, Path(task.own.out)
    scores = summary.scores
    own = scores[(scores["row"] == tuned_name(chosen.mode)) & (scores["seed"] == "")]
    kept = {name: value for name, value in asdict(config).items() if name not in ("out", "store", "checkpoint")}
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    making = out.with_name(f".{out.name}.tuning.{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    try:
        with disk_full_is_clear(out):
            summary.write(making, command)
            save_tuned(making / "checkpoint", chosen, task.problem, task.parent, kept, own)
            predictions(task.problem, chosen.predicted, summary.title).to_netcdf(making / "predictions.nc")
            if out.exists():
                out.rmdir()
            os.replace(making, out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return out

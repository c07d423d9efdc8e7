"""finetune: a pretrained encoder tuned on a user's own labels, beside everything that the result must beat."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from threadpoolctl import threadpool_limits

from ...ssl.common.files import refuse_filled, sha256
from ...ssl.store.store import Store
from ..evaluation.run import summarise
from ..results.numbers import plain
from ..training.unfinished import unfinished
from .config import FinetuningConfig
from .own_grid import on_grid_of_checkpoint
from .save import predictions, save_tuned
from .task import Finetuning, tuned_name


def finetune(config: FinetuningConfig, command: str = "") -> Path:
    """Fine-tune, and return the folder of the results: `checkpoint`, `predictions.nc`, the table and its page.

    Stopped or killed, it leaves `OUT.unfinished`, and the same command goes on: networks that are done stay, the one in
    training goes on from its last look at validation, and the results are those of a run left alone.

    Args:
        config: What to do.
        command: As typed, for the record.

    Raises:
        EarthSSLError: If checkpoint, store and labels do not fit together, or `out` is not empty.
    """
    refuse_filled(Path(config.out), "the results")
    # Many small problems: BLAS threads would only wait for one another.
    with threadpool_limits(1, "blas"):
        task = Finetuning(config, on_grid_of_checkpoint(config, Store(config.store)))
        print("\n".join(task.parent.transfer.lines()), file=sys.stderr)
        kept = {name: value for name, value in asdict(config).items() if name not in ("out", "store", "checkpoint")}
        if not config.constraints:  # as runs that were begun before there were any have it
            del kept["constraints"]
        of = {"config": plain(kept), "store": task.store.fingerprint, "labels": sha256(Path(config.labels)),
              "checkpoint": task.parent.sha256}  # fmt: skip

        def also(folder: Path) -> None:
            chosen, scores = task.chosen, summary.scores
            own = scores[(scores["row"] == tuned_name(chosen.mode)) & (scores["seed"] == "")]
            save_tuned(folder / "checkpoint", chosen, task.problem, task.parent, kept, own)
            predictions(task.problem, chosen, summary.title).to_netcdf(folder / "predictions.nc")

        with unfinished(Path(config.out), of) as task.unfinished:
            summary = summarise(task)
            return summary.write(config.out, command, also)

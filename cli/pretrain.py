"""Pretraining with the tasks of pretext/, and the labels of the online probe."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..downstream.tasks.enso.labels import EnsoLabels, sst_variable
from ..pretext import TASKS
from ..ssl.common.errors import EarthSSLError
from ..ssl.data.windows import Windows
from ..ssl.store.store import Store
from ..ssl.training.monitor import ProbeLabels
from ..ssl.training.pretrain import OnlineProbeConfig, PretrainConfig
from ..ssl.training.pretrain import pretrain as run_pretrain


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain with the tasks of pretext/ and return the checkpoint's folder."""
    label = None
    if config.online_probe.task:
        online = config.online_probe
        if online.task != "enso":
            raise EarthSSLError(f"online_probe.task: expected enso or nothing, got '{online.task}'")
        label = enso_labels(online)
    return run_pretrain(config, TASKS, label)


def enso_labels(online: OnlineProbeConfig) -> Callable[[Store, Windows], ProbeLabels]:
    """Return a function that labels windows with the Niño 3.4 target at one lead.

    The probe has its own split: fitted on the first five sixths of the training block's samples, scored on the
    rest after a gap of window + lead, so that the validation block stays untouched for selection.
    """

    def label(store: Store, windows: Windows) -> ProbeLabels:
        name = sst_variable(store.variables, store.path)
        task = EnsoLabels.from_dataset(store.dataset([name]), store.splits, [online.lead], windows.length)
        rows = windows.starts + windows.length - 1
        usable = np.flatnonzero(task.samples("train")[0][rows])
        cut, gap = len(usable) * 5 // 6, windows.length + online.lead + 1
        if len(usable) - cut - gap < 24:
            raise EarthSSLError(
                f"online_probe: expected at least 24 training windows to score on after a gap of {gap} months, got "
                f"{max(0, len(usable) - cut - gap)}; lengthen splits.train or leave the online probe out"
            )
        labels = np.nan_to_num(task.target[0][rows])
        return ProbeLabels(f"enso_lead{online.lead}", windows, usable[:cut], usable[cut + gap :], labels)

    return label


def pretrain_once(config: PretrainConfig) -> Path:
    """Return the checkpoint of a run: as it is where finished, resumed where a state was saved, else made anew."""
    run = Path(config.out)
    if (run / "checkpoint").exists():
        return run / "checkpoint"
    resume = (run / "last.ckpt").is_file()
    if not resume:
        shutil.rmtree(run, ignore_errors=True)
    return pretrain(replace(config, resume=resume))

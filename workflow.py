"""Where ssl, pretext and downstream are wired together: the verbs as functions."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .downstream.enso import EnsoTask
from .downstream.probe import ProbeConfig
from .downstream.probe import probe as run_probe
from .downstream.report import ReportConfig
from .downstream.report import report as write_report
from .pretext import TASKS
from .ssl.config import build, override, section
from .ssl.data import Windows
from .ssl.errors import EarthSSLError
from .ssl.files import refuse_filled
from .ssl.monitor import ProbeLabels
from .ssl.prepare import PrepareConfig, prepare
from .ssl.pretrain import OnlineProbeConfig, PretrainConfig
from .ssl.pretrain import pretrain as run_pretrain
from .ssl.store import Store

VERBS: dict[str, type] = {
    "prepare": PrepareConfig,
    "pretrain": PretrainConfig,
    "probe": ProbeConfig,
    "report": ReportConfig,
}


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain with the tasks of pretext/ and return the checkpoint's folder."""
    label = None
    if config.online_probe.task:
        online = config.online_probe
        if online.task != "enso":
            raise EarthSSLError(f"online_probe.task: expected enso or nothing, got '{online.task}'")
        label = enso_labels(online)
    return run_pretrain(config, TASKS, label)


def probe(config: ProbeConfig, command: str = "") -> Path:
    """Probe frozen encoders beside their baselines and return the folder of the tables."""
    return run_probe(config, command)


def report(config: ReportConfig) -> Path:
    """Write the HTML report and return its file."""
    return write_report(config)


def enso_labels(online: OnlineProbeConfig) -> Callable[[Store, Windows], ProbeLabels]:
    """Return a function that labels windows with the Niño 3.4 target at one lead.

    The probe has its own split: fitted on the first five sixths of the training block's samples, scored on the
    rest after a gap of window + lead, so that the validation block stays untouched for selection.
    """

    def label(store: Store, windows: Windows) -> ProbeLabels:
        name = next((name for name in ("ssta", "sst") if name in store.variables), None)
        if name is None:
            raise EarthSSLError(f"online_probe: expected sst or ssta in {store.path}, got {', '.join(store.variables)}")
        task = EnsoTask.from_dataset(store.dataset([name]), store.splits, [online.lead], windows.length)
        rows = windows.starts + windows.length - 1
        usable = np.flatnonzero(task.samples("train")[0][rows])
        cut, gap = len(usable) * 5 // 6, windows.length + online.lead + 1
        labels = np.nan_to_num(task.target[0][rows])
        return ProbeLabels(f"enso_lead{online.lead}", windows, usable[:cut], usable[cut + gap :], labels)

    return label


def run_verb(verb: str, settings: dict[str, Any], command: str = "") -> Path:
    """Build a verb's config from plain settings, run it, and return where its results lie."""
    config: Any = build(VERBS[verb], settings, verb)
    if verb == "probe":
        return probe(config, command)
    functions: dict[str, Callable[[Any], Path]] = {"prepare": prepare, "pretrain": pretrain, "report": report}
    return functions[verb](config)


def run_all(file: str | Path, out: str, words: list[str], say: Callable[[str], None], command: str = "") -> Path:
    """Run a config file from source to report, one pretraining for each of its seeds, and return the report.

    Args:
        file: A run's config with all four sections; their folders are put under `out`.
        out: Folder of everything; new or empty, or that of a run that was interrupted: finished steps are kept.
        words: Overrides, `--section.key value`.
        say: Told what happens.
        command: As typed, for the record.

    Raises:
        EarthSSLError: From any step.
    """
    sections = {verb: section(file, verb) for verb in VERBS}
    sections = override(sections, words)
    unknown = [name for name in sections if name not in VERBS]
    if unknown:
        raise EarthSSLError(
            f"expected overrides of {', '.join(VERBS)}, such as --pretrain.training.steps 100, got --{unknown[0]}"
        )
    root = Path(out)
    seeds = sections["pretrain"].pop("seeds", None) or [0]
    store, runs = root / "store", [root / f"pretrain-seed{seed}" for seed in seeds]
    marker = root / ".config"
    state = repr(sections)
    if not marker.is_file() or marker.read_text() != state:
        refuse_filled(root, "the run (the config differs from the one that was begun there)")
        root.mkdir(parents=True, exist_ok=True)
        marker.write_text(state)
    begun = time.perf_counter()
    if not store.exists():
        say(f"1/4 prepare: {sections['prepare'].get('source')} → {store}")
        run_verb("prepare", {**sections["prepare"], "out": str(store)})
    for run, seed in zip(runs, seeds, strict=True):
        _pretrain_once(sections["pretrain"], store, run, seed, say)
    folder = root / "probe"
    if not folder.exists():
        say(f"3/4 probe: {sections['probe'].get('task', 'enso')} → {folder}")
        settings = {**sections["probe"], "store": str(store), "out": str(folder), "checkpoints": [str(r) for r in runs]}
        run_verb("probe", settings, command)
    say("4/4 report")
    file_out = root / "report.html"
    settings = {**sections["report"], "store": str(store), "runs": [str(r) for r in runs], "probe": str(folder)}
    path = run_verb("report", {**settings, "out": str(file_out)})
    say(f"took {time.perf_counter() - begun:.0f} s")
    return path


def _pretrain_once(settings: dict[str, Any], store: Path, run: Path, seed: int, say: Callable[[str], None]) -> None:
    """Pretrain one seed; keep it if finished, resume it if a state was saved, else start anew."""
    if (run / "checkpoint").exists() and (run / "run.json").is_file():
        return
    config: Any = build(PretrainConfig, {**settings, "store": str(store), "out": str(run)}, "pretrain")
    config = replace(config, training=replace(config.training, seed=seed))
    if (run / "last.ckpt").is_file() and not (run / "checkpoint").exists():
        say(f"2/4 pretrain, seed {seed}: resumed")
        config = replace(config, resume=True)
    else:
        shutil.rmtree(run, ignore_errors=True)
        say(f"2/4 pretrain, seed {seed} → {run}")
    pretrain(config)


__all__ = ["VERBS", "pretrain", "probe", "report", "run_all", "run_verb"]

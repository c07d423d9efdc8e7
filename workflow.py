"""Where ssl, pretext and downstream are wired together: the verbs as functions."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .downstream.enso import EnsoTask, check_embargo, sst_variable
from .downstream.probe import ProbeConfig
from .downstream.probe import probe as run_probe
from .downstream.report import ReportConfig
from .downstream.report import report as write_report
from .pretext import TASKS
from .ssl.config import build, override, section
from .ssl.data import Windows
from .ssl.errors import EarthSSLError
from .ssl.files import read_json, refuse_filled, write_json
from .ssl.monitor import ProbeLabels
from .ssl.prepare import PrepareConfig, prepare
from .ssl.pretrain import OnlineProbeConfig, PretrainConfig, parse_objectives
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
        name = sst_variable(store.variables, store.path)
        task = EnsoTask.from_dataset(store.dataset([name]), store.splits, [online.lead], windows.length)
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
    sections = override({verb: section(file, verb) for verb in VERBS}, words)
    unknown = [name for name in sections if name not in VERBS]
    if unknown:
        raise EarthSSLError(
            f"expected overrides of {', '.join(VERBS)}, such as --pretrain.training.steps 100, got --{unknown[0]}"
        )
    root = Path(out)
    seeds = _seeds(sections["pretrain"])
    store, folder = root / "store", root / "probe"
    runs = [root / f"pretrain-seed{seed}" for seed in seeds]
    settings = _settings(sections, store, runs, folder, root / "report.html")
    _validate(settings)
    _open(root, sections, store, runs, folder)
    begun = time.perf_counter()
    if not store.exists():
        say(f"1/4 prepare: {sections['prepare'].get('source')} → {store}")
        run_verb("prepare", settings["prepare"])
    for run, seed in zip(runs, seeds, strict=True):
        _pretrain_once(settings["pretrain"], run, seed, say)
    if not folder.exists():
        say(f"3/4 probe: {sections['probe'].get('task', 'enso')} → {folder}")
        run_verb("probe", settings["probe"], command)
    say("4/4 report")
    path = run_verb("report", settings["report"])
    say(f"took {time.perf_counter() - begun:.0f} s")
    return path


def _seeds(pretrain_section: dict[str, Any]) -> list[int]:
    seeds = pretrain_section.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise EarthSSLError(f"pretrain.seeds: expected a list of whole numbers such as [0, 1, 2], got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise EarthSSLError(f"pretrain.seeds: expected different seeds, got {seeds}")
    return seeds


def _settings(
    sections: dict[str, Any], store: Path, runs: list[Path], folder: Path, report_file: Path
) -> dict[str, dict[str, Any]]:
    """Return each verb's settings with the folders of the run put in."""
    places = [str(run) for run in runs]
    plain = {name: value for name, value in sections["pretrain"].items() if name != "seeds"}
    return {
        "prepare": {**sections["prepare"], "out": str(store)},
        "pretrain": {**plain, "store": str(store), "out": places[0]},
        "probe": {**sections["probe"], "store": str(store), "out": str(folder), "checkpoints": places},
        "report": {**sections["report"], "store": str(store), "runs": places, "probe": str(folder),
                   "out": str(report_file)},
    }  # fmt: skip


def _validate(settings: dict[str, dict[str, Any]]) -> None:
    """Build every config before anything is done, so that a mistake in the last section costs no training."""
    built: dict[str, Any] = {verb: build(kind, settings[verb], verb) for verb, kind in VERBS.items()}
    parse_objectives(built["pretrain"].objectives, TASKS)
    splits = built["prepare"].splits.build()
    probed = built["probe"]
    check_embargo(splits, max(built["pretrain"].encoder.window, probed.pca_window), max(probed.leads))


def _open(root: Path, sections: dict[str, Any], store: Path, runs: list[Path], folder: Path) -> None:
    """Make the run's folder, or check that what is finished there was made with the same settings."""
    marker = root / ".config.json"
    if marker.is_file():
        made = read_json(marker, "the config of an interrupted run")
        finished = {"prepare": store.exists(), "pretrain": any(run.exists() for run in runs), "probe": folder.exists()}
        for name, there in finished.items():
            if there and made.get(name) != sections[name]:
                where = {"prepare": root, "pretrain": root, "probe": folder}[name]
                raise EarthSSLError(
                    f"{root} was begun with another config (its section '{name}' differs); choose another --out, or "
                    f"remove {where} to make it anew"
                )
    else:
        refuse_filled(root, "the run")
        root.mkdir(parents=True, exist_ok=True)
    write_json(marker, sections)


def _pretrain_once(settings: dict[str, Any], run: Path, seed: int, say: Callable[[str], None]) -> None:
    """Pretrain one seed; keep it if finished, resume it if a state was saved, else start anew."""
    if (run / "checkpoint").exists():
        return
    config: Any = build(PretrainConfig, {**settings, "out": str(run)}, "pretrain")
    config = replace(config, training=replace(config.training, seed=seed))
    if (run / "last.ckpt").is_file():
        say(f"2/4 pretrain, seed {seed}: resumed")
        config = replace(config, resume=True)
    else:
        shutil.rmtree(run, ignore_errors=True)
        say(f"2/4 pretrain, seed {seed} → {run}")
    pretrain(config)


__all__ = ["VERBS", "pretrain", "probe", "report", "run_all", "run_verb"]

"""A whole run from one config file: source to report, resumable step by step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..downstream.tasks.enso.labels import check_embargo, later
from ..downstream.tasks.registry import ENSO, rehearse_task
from ..pretext import TASKS
from ..ssl.common.config import build, override, read_yaml, section
from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import read_json, refuse_filled, write_json
from ..ssl.prepare.config import PrepareConfig
from ..ssl.runtime.signals import between_steps
from ..ssl.training.pretrain import PretrainConfig, parse_objectives
from .folds import FOLDS, check_folds, fold_folder, folds_of, write_pooled
from .pretrain import pretrain_once
from .verbs import config_of, run_verb

STEPS = ("prepare", "pretrain", "probe", "report")
OTHERS = "prepare_others"
STUDIES = ("audit", "matrix", "finetune")


def run_all(file: str | Path, out: str, words: list[str], say: Callable[[str], None], command: str = "") -> Path:
    """Run a config file from source to report, one pretraining for each of its seeds, and return the report.

    Args:
        file: A run's config with the sections prepare, pretrain, probe and perhaps report, or prepare and any of
            audit, matrix and finetune; their folders are put under `out`. A section prepare_others holds the settings
            of prepare for data sets that are trained on beside the first, by their names in pretrain.stores. With a
            section folds (see `FoldsConfig`) there is a run for each fold, `fold-1` and so on, and one table of all.
        out: Folder of everything; new or empty, or that of a run that was interrupted: finished steps are kept.
        words: Overrides, `--section.key value`.
        say: Told what happens.
        command: As typed, for the record.

    Raises:
        EarthSSLError: From any step.
    """
    found = read_yaml(file)
    if any(name in found for name in STUDIES):
        both = [name for name in (*STEPS[1:], OTHERS, FOLDS) if name in found]
        if both:
            raise EarthSSLError(
                f"{file}: expected {' or '.join(STUDIES)}, or {', '.join(STEPS[1:])} and {OTHERS}, got '{both[0]}' "
                "beside a study; put it in a file of its own"
            )
        return _run_study(file, out, words, say, command)
    steps = (*STEPS, *(name for name in (OTHERS, FOLDS) if name in found))
    sections = {verb: section(file, verb) for verb in steps if verb != "report" or verb in found}
    sections = _overridden({"report": {}, **sections}, words)
    unknown = [name for name in sections if name not in steps]
    if unknown:
        raise EarthSSLError(
            f"expected overrides of {', '.join(steps)}, such as --pretrain.training.steps 100, got --{unknown[0]}"
        )
    return (_run_folds if FOLDS in found else _run_sections)(sections, Path(out), say, command)


def _run_folds(sections: dict[str, Any], root: Path, say: Callable[[str], None], command: str) -> Path:
    """Run every fold from source to report and return the page of the pooled table; all are checked beforehand."""
    if OTHERS in sections:
        raise EarthSSLError(
            f"folds: expected no section {OTHERS}, whose splits would be the same in every fold, got one; leave it out"
        )
    if sections["probe"].get("since") is not None:
        raise EarthSSLError(
            "probe.since: expected none beside folds, for every month lies in the test block of one; leave it out, and "
            "let folds.first be the month that all begins with"
        )
    every = folds_of(sections)
    built = [_validate(_planned(own, fold_folder(root, k))[0]) for k, own in enumerate(every)]
    if built[0]["probe"].uncertainty:
        raise EarthSSLError("probe.uncertainty: expected false beside folds, which have no block before; set it so")
    blocks = [own["prepare"].splits.build() for own in built]
    check = partial(check_folds, blocks, start_from=built[0]["pretrain"].start_from)
    marker = root / ".config.json"
    if marker.is_file():
        made = read_json(marker, "the config of an interrupted run")
        if made.get(FOLDS) != sections[FOLDS]:
            raise EarthSSLError(
                f"{root} was begun with another config (its section '{FOLDS}' differs); choose another --out"
            )
    else:
        refuse_filled(root, "the run")
        root.mkdir(parents=True, exist_ok=True)
    write_json(marker, sections)
    for k, own in enumerate(every):
        tested = " … ".join(own["prepare"]["splits"]["test"])
        say(f"fold {k + 1} of {len(every)}, tested {tested}")
        title = f"{own['report'].get('title') or 'ENSO'}, fold {k + 1} of {len(every)}"
        titled = {**own, "report": {**own["report"], "title": title}}
        _run_sections(titled, fold_folder(root, k), say, command, check)
        between_steps()
    return write_pooled(root, len(every), sections, say, command)


Planned = tuple[dict[str, dict[str, Any]], list[int], list[Path], dict[str, Path]]


def _planned(sections: dict[str, Any], root: Path) -> Planned:
    """Return each verb's settings, the seeds, the folders of their pretrainings, and the stores of other data sets."""
    seeds = _seeds(sections["pretrain"])
    runs = [root / f"pretrain-seed{seed}" for seed in seeds]
    others = {name: root / f"store-{name}" for name in sections.get(OTHERS, {})}
    settings = _settings(sections, root / "store", runs, root / "probe", root / "report.html", others)
    return settings, seeds, runs, others


def _run_sections(
    sections: dict[str, Any], root: Path, say: Callable[[str], None], command: str,
    check: Callable[[Path], None] | None = None,
) -> Path:  # fmt: skip
    """Run the sections of one run from source to report under `root` and return the report.

    Args:
        sections, root, say, command: As of `run_all`.
        check: Given the store before anything is pretrained on it.
    """
    settings, seeds, runs, others = _planned(sections, root)
    store, folder = root / "store", root / "probe"
    built = _validate(settings)
    _open(root, sections, store, runs, folder, others)
    begun = time.perf_counter()
    for made, own in ((store, settings["prepare"]), *((others[name], settings[OTHERS][name]) for name in others)):
        if not made.exists():
            say(f"1/4 prepare: {own.get('source')} → {made}")
            run_verb("prepare", own)
    if not folder.exists() and any(not (run / "checkpoint").exists() for run in runs):
        if check is not None:
            check(store)
        rehearse_task(built["probe"], built["pretrain"].encoder)
    for run, seed in zip(runs, seeds, strict=True):
        _pretrain_once(settings["pretrain"], run, seed, say)
        between_steps()
    if not folder.exists():
        say(f"3/4 probe: {_task(sections)} → {folder}")
        run_verb("probe", settings["probe"], command)
    say("4/4 report")
    path = run_verb("report", settings["report"])
    say(f"took {time.perf_counter() - begun:.0f} s")
    return path


def _run_study(file: str | Path, out: str, words: list[str], say: Callable[[str], None], command: str) -> Path:
    """Prepare a store, then audit pretext tasks or make the matrix on it, as the config file's sections say.

    Audit and matrix keep what is finished themselves, and refuse to go on with other settings.
    """
    steps = ["prepare", *[name for name in STUDIES if name in read_yaml(file)]]
    given = {verb: section(file, verb) for verb in steps}
    sections = _overridden(given, words)
    root = Path(out)
    store = root / "store"
    settings = {"prepare": {**sections["prepare"], "out": str(store)}}
    settings |= {name: {**sections[name], "store": str(store), "out": str(root / name)} for name in steps[1:]}
    for verb, own in settings.items():
        build(config_of(verb, own), own, verb)
    marker = root / ".config.json"
    if marker.is_file():
        made = read_json(marker, "the config of an interrupted run")
        if store.exists() and made["prepare"] != sections["prepare"]:
            raise EarthSSLError(
                f"{root} was begun with another config (its section 'prepare' differs); choose another --out"
            )
    else:
        refuse_filled(root, "the run")
        root.mkdir(parents=True, exist_ok=True)
    write_json(marker, {"prepare": sections["prepare"]})
    begun = time.perf_counter()
    if not store.exists():
        say(f"prepare: {sections['prepare'].get('source')} → {store}")
        run_verb("prepare", settings["prepare"])
    path = root
    for name in steps[1:]:
        say(f"{name} → {root / name}")
        folder = root / name
        if name != "finetune" or not folder.exists():  # whole if it is there: it appears at its end
            folder = run_verb(name, settings[name], command)
        path = folder / "report.html"
    say(f"took {time.perf_counter() - begun:.0f} s")
    return path


def _overridden(sections: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Return the sections with the overrides laid over them.

    Raises:
        EarthSSLError: If one of them is no mapping any more.
    """
    plain = {name: value if isinstance(value, dict) else {} for name, value in override(sections, words, str).items()}
    kinds = {name: config_of(name, plain[name]) for name in sections if name != OTHERS}
    made = override(sections, words, {**kinds, OTHERS: dict[str, PrepareConfig]})
    for name in sections:
        if not isinstance(made[name], dict):
            raise EarthSSLError(f"{name}: expected a mapping of settings, got {made[name]!r}; give --{name}.KEY VALUE")
    return made


def _task(sections: dict[str, Any]) -> str:
    probed = sections.get("probe")
    return str(probed.get("task", ENSO)) if isinstance(probed, dict) else ENSO


def _seeds(pretrain_section: dict[str, Any]) -> list[int]:
    seeds = pretrain_section.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise EarthSSLError(f"pretrain.seeds: expected a list of whole numbers such as [0, 1, 2], got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise EarthSSLError(f"pretrain.seeds: expected different seeds, got {seeds}")
    return seeds


def _settings(
    sections: dict[str, Any],
    store: Path,
    runs: list[Path],
    folder: Path,
    report_file: Path,
    others: dict[str, Path],
) -> dict[str, dict[str, Any]]:
    """Return each verb's settings with the folders of the run put in."""
    places = [str(run) for run in runs]
    plain = {name: value for name, value in sections["pretrain"].items() if name != "seeds"}
    if others:
        plain["stores"] = _with_stores(plain.get("stores"), others)
    made = {
        "prepare": {**sections["prepare"], "out": str(store)},
        "pretrain": {**plain, "store": str(store), "out": places[0]},
        "probe": {**sections["probe"], "store": str(store), "out": str(folder), "checkpoints": places},
    }
    rest = {"store": str(store), "runs": places, "probe": str(folder), "out": str(report_file)}
    made["report"] = {**sections["report"], **rest}
    if others:
        made[OTHERS] = {name: {**_mapping(sections, name), "out": str(place)} for name, place in others.items()}
    return made


def _mapping(sections: dict[str, Any], name: str) -> dict[str, Any]:
    settings = sections[OTHERS][name]
    if not isinstance(settings, dict):
        raise EarthSSLError(f"{OTHERS}.{name}: expected the settings of prepare, got {settings!r}; mend it")
    return settings


def _with_stores(settings: Any, others: dict[str, Path]) -> dict[str, Any]:
    """Return pretrain.stores with the folders of the data sets that are prepared."""
    named = dict(settings) if isinstance(settings, dict) else {}
    absent = [name for name in others if not isinstance(named.get(name), dict)]
    if absent:
        raise EarthSSLError(
            f"pretrain.stores: expected {', '.join(absent)}, prepared by {OTHERS}, with a weight, found none; add it"
        )
    return named | {name: {**named[name], "store": str(place)} for name, place in others.items()}


def _validate(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build every config before anything is done, so that a mistake in the last section costs no training."""
    settings = dict(settings)
    for name, other in settings.pop(OTHERS, {}).items():
        build(PrepareConfig, other, f"{OTHERS}.{name}").splits.build()
    built: dict[str, Any] = {verb: build(config_of(verb, own), own, verb) for verb, own in settings.items()}
    parse_objectives(built["pretrain"].objectives, TASKS)
    splits = built["prepare"].splits.build()
    probed = built["probe"]
    if _task(settings) == ENSO:
        splits = splits if probed.since is None else later(splits, probed.since)
        check_embargo(splits, probed.sample_window(built["pretrain"].encoder), max(probed.leads))
    return built


def _open(
    root: Path, sections: dict[str, Any], store: Path, runs: list[Path], folder: Path, others: dict[str, Path]
) -> None:
    """Make the run's folder, or check that what is finished there was made with the same settings."""
    marker = root / ".config.json"
    if marker.is_file():
        made = read_json(marker, "the config of an interrupted run")
        if FOLDS in made:
            raise EarthSSLError(f"{root} was begun with another config (its section '{FOLDS}'); choose another --out")
        finished = {"prepare": store.exists(), "pretrain": any(run.exists() for run in runs), "probe": folder.exists()}
        finished[OTHERS] = any(place.exists() for place in others.values())
        for name, there in finished.items():
            if there and made.get(name) != sections.get(name):
                where = folder if name == "probe" else root
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
    say(f"2/4 pretrain, seed {seed}" + (": resumed" if (run / "last.ckpt").is_file() else f" → {run}"))
    pretrain_once(config)

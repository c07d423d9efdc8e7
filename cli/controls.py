"""Controls: worlds with a known answer made, pretrained on, scored and judged; goes on where it was interrupted."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..downstream.studies.control_verdict import control_summary, write_markdown
from ..downstream.studies.controls import (
    ALL,
    ControlsConfig,
    cell_file,
    encoder_once,
    references_once,
)
from ..pretext import TASKS
from ..ssl.common.errors import EarthSSLError, check_known
from ..ssl.common.files import read_json
from ..ssl.common.progress import track
from ..ssl.fields.normalisation import StatisticsConfig
from ..ssl.fields.splits import SplitsConfig
from ..ssl.inference.load import load_encoder
from ..ssl.prepare.config import PrepareConfig
from ..ssl.prepare.prepare import prepare
from ..ssl.runtime.signals import between_steps
from ..ssl.sources.controls.controls import Control, ControlConfig
from ..ssl.store.store import Store
from ..ssl.training.pretrain import HISTORY, PretrainConfig
from .pretrain import pretrain_once
from .studies import finish, open_study

# How every pretext task is posed on windows of two steps of one variable on 8×32.
TILES = {"shape": [2, 3], "tile": [4, 4], "gap": [0, 4], "jitter": 0}
RECIPES: dict[str, dict[str, Any]] = {
    "masking": {},
    "order": {"kind": "arrow", "frames": 2},
    "distance": {},
    "orientation": {"frames": 0},
    "jigsaw": {"tiles": TILES},
    "lead_time": {"leads": [1, 2, 4], "draw": "all", "hidden": 64},
    "simclr": {},
    "byol": {},
    "vicreg": {},
    "latent": {},
    "eof_masking": {},
    "temporal_latent": {"leads": [1, 2, 4]},
    "linear_residual": {"leads": [1, 2, 4], "draw": "all", "components": 128, "fit": 10_000},
    "interpolation_residual": {"fit": 10_000},
    "stochastic_lead_time": {"leads": [1, 2, 4], "draw": "all"},
}
# Several on one encoder, with fixed weights: one row each.
MIXES: dict[str, dict[str, dict[str, Any]]] = {
    "masking+latent+variance": {"masking": {}, "latent": {}, "variance": {"weight": 0.1}},
    "lead_time+variance": {"lead_time": RECIPES["lead_time"], "variance": {"weight": 0.1}},
}
NOT_POSED = {
    "variance": "asks nothing of its own, and stands beside others",
    "cross_variable": "needs two variables, and a control has one",
    "relative_position": "needs room for two rows of tiles with a gap between them, twelve rows of cells",
}


def controls(config: ControlsConfig, command: str = "") -> Path:
    """Make the worlds, pretrain, score and judge; return the folder of the table.

    Raises:
        EarthSSLError: If a pretext task is unknown, or the folder was begun with other settings.
    """
    begun, out = time.perf_counter(), Path(config.out)
    config, names = _named(config)
    free = ("out", "designs", "objectives", "seeds", "draws")
    open_study(out, "controls", asdict(config), free)
    cells = [(design, seed, name) for seed in config.seeds for design in config.designs for name in names]
    for design, seed, name in track(cells, "controls"):
        if cell_file(out, design, name, seed).is_file():
            continue
        store = _store(config, design, seed)
        references_once(config, store, design, seed)
        _encoder(config, store, design, name, seed)
        between_steps()
    record = {"seconds": time.perf_counter() - begun, "config": asdict(config), "synthetic": True}
    notes = [f"{name}: not in this table; it {why}." for name, why in NOT_POSED.items()]
    summary = control_summary(config, names, record, notes)
    return finish(summary, out / "report", command, lambda folder: write_markdown(folder, summary))


def refuse_wrong(folder: Path) -> None:
    """Raise an EarthSSLError that says what is wrong, if a table of controls has something that must not be."""
    found = read_json(folder / "result.json", "the result of the controls")
    if not found["passed"]:
        wrong = [f"{one['design']}: {one['words']}" for one in found["checks"] if one["passed"] is False]
        raise EarthSSLError(f"{'; '.join(wrong)}; train longer, or look for what broke: {folder / 'report.html'}")


def _named(config: ControlsConfig) -> tuple[ControlsConfig, list[str]]:
    """Return the config with the settings of every pretext task in it, and the names of those asked for."""
    asked = [config.objectives] if isinstance(config.objectives, str) else config.objectives
    asked = [name for name in (*TASKS, *MIXES) if name not in NOT_POSED] if asked == [ALL] else asked
    check_known("controls.objectives", asked, (*TASKS, *MIXES, ALL))
    if config.recipes:
        check_known("controls.recipes", list(config.recipes), (*TASKS, *MIXES))
    refused = [name for name in asked if name in NOT_POSED or name == ALL]
    if refused:
        why = NOT_POSED.get(refused[0], "stands alone")
        raise EarthSSLError(f"controls.objectives: expected tasks that can be posed, got '{refused[0]}', which {why}")
    usual = {name: RECIPES.get(name, {}) for name in TASKS} | MIXES
    return replace(config, recipes={name: config.recipes.get(name, own) for name, own in usual.items()}), asked


def _store(config: ControlsConfig, design: str, seed: int) -> Store:
    """Return the store of a world, made unless it is there."""
    folder = Path(config.out) / "stores" / f"{design}-seed{seed}"
    if not folder.exists():
        options = config.source(design, seed)
        splits = SplitsConfig(**Control(ControlConfig(**options)).splits())
        statistics = StatisticsConfig("hour", 0, "variable")  # one number for all
        prepare(PrepareConfig("controls", str(folder), splits, options, statistics, workers=1))
    return Store(folder)


def _encoder(config: ControlsConfig, store: Store, design: str, name: str, seed: int) -> None:
    """Pretrain with one task, or one mix of them, on one world, and score the encoder."""
    begun = time.perf_counter()
    run = Path(config.out) / "runs" / design / name / f"seed{seed}"
    training = config.training(name, seed)
    settings = config.recipes[name] if name in MIXES else {name: config.recipes[name]}
    checkpoint = pretrain_once(
        PretrainConfig(store.address, str(run), settings, encoder=config.encoder, training=training)
    )
    seconds = time.perf_counter() - begun
    between_steps()
    history = pd.read_csv(run / HISTORY)
    last = history[history["step"] == training.steps].set_index("name")["value"]
    about = {"pretext_skill": float(last[f"val/{next(iter(settings))}/skill"]), "seconds": seconds}
    encoder_once(config, store, design, name, seed, load_encoder(checkpoint).encoder, about)

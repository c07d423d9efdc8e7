"""Every config in configs/ is read as its verbs would read it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from earthssl.cli.few_shot import task_settings
from earthssl.cli.folds import folds_of
from earthssl.cli.verbs import config_of
from earthssl.downstream.tasks.registry import ENSO, matrix_config
from earthssl.pretext import TASKS
from earthssl.ssl.common.config import build, read_yaml
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.training.pretrain import parse_objectives

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
LINKS = {
    "prepare": {"out": "x"},
    "pretrain": {"store": "x", "out": "x"},
    "probe": {"store": "x", "out": "x", "checkpoints": ["x"]},
    "report": {"store": "x", "probe": "x"},
    "audit": {"store": "x", "out": "x"},
    "matrix": {"store": "x", "out": "x"},
    "finetune": {"store": "x", "out": "x"},
    "few-shot": {"out": "x"},
}


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_section_is_valid_and_the_gaps_hold_window_and_lead(file: Path) -> None:
    built: dict[str, Any] = {}
    content = read_yaml(file)
    others = content.pop("prepare_others", {})
    folds = [own["prepare"] for own in folds_of(content)] if "folds" in content else []
    if folds:
        content = {**{name: own for name, own in content.items() if name != "folds"}, "prepare": folds[0]}
    for name, settings in others.items():
        build(PrepareConfig, {**settings, "out": "x"}, name).splits.build()
    for verb, settings in content.items():
        settings.pop("seeds", None) if verb == "pretrain" else None
        kind = config_of(verb, settings)
        links = {name: value for name, value in LINKS[verb].items() if name in {f.name for f in fields(kind)}}
        built[verb] = build(kind, {**settings, **links}, verb)
    for verb in ("pretrain", "audit"):
        if verb in built:
            parse_objectives(built[verb].objectives, TASKS)
    assert set(others) <= set(built["pretrain"].stores if others else ())
    if "matrix" in built:
        for objectives in built["matrix"].all_recipes().values():
            parse_objectives(objectives, TASKS)
        for task, options in built["matrix"].tasks.items():
            assert matrix_config(task, options, "x").task == task
    if "few-shot" in built:
        for name, own in built["few-shot"].tasks.items():
            assert task_settings(name, own, Path("x")).task == own["task"]
    if "prepare" not in built:
        return
    every = [
        build(PrepareConfig, {**own, "out": "x"}, "prepare").splits.build() for own in folds or [content["prepare"]]
    ]
    for splits in every if "probe" in built and built["probe"].task == ENSO else ():
        months = built["probe"].sample_window(built["pretrain"].encoder) + max(built["probe"].leads) + 1
        for (_, earlier), (_, later) in splits.neighbours():
            gap = (later[0].astype("datetime64[M]") - earlier[1].astype("datetime64[M]")).astype(int) - 1
            assert gap >= months
        assert splits.embargo_days >= 30 * months

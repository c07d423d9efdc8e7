"""The verbs that read a section of a config file, as functions by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..downstream.finetune.config import FinetuningConfig
from ..downstream.finetune.finetune import finetune
from ..downstream.report.report import ReportConfig, report
from ..downstream.studies.controls import ControlsConfig
from ..downstream.studies.few_shot import FewShotConfig
from ..downstream.studies.matrix import MatrixConfig
from ..downstream.studies.worth import WorthConfig
from ..downstream.tasks.registry import ENSO, task_class
from ..pretext.audit import AuditConfig
from ..ssl.common.config import build
from ..ssl.fields.folds import FoldsConfig
from ..ssl.prepare.config import PrepareConfig
from ..ssl.prepare.prepare import prepare
from ..ssl.training.pretrain import PretrainConfig
from .controls import controls
from .few_shot import few_shot
from .look_page import add_look_page
from .pretrain import pretrain
from .probe import probe
from .studies import audit, matrix, worth

VERBS: dict[str, type] = {
    "prepare": PrepareConfig,
    "worth": WorthConfig,
    "pretrain": PretrainConfig,
    "finetune": FinetuningConfig,
    "report": ReportConfig,
    "audit": AuditConfig,
    "matrix": MatrixConfig,
    "controls": ControlsConfig,
    "few-shot": FewShotConfig,
}


REPORTED = ("probe", "finetune", "report", "matrix")  # verbs that write a report


def config_of(verb: str, settings: dict[str, Any]) -> type:
    """Return the class of the config of a verb, or of the section folds; a probe's depends on its task."""
    if verb == "folds":
        return FoldsConfig
    return task_class(settings.get("task", ENSO)).Config if verb == "probe" else VERBS[verb]


def run_verb(verb: str, settings: dict[str, Any], command: str = "") -> Path:
    """Build a verb's config from plain settings, run it, and return where its results lie."""
    if verb == "prepare" and settings.get("append"):
        settings = {"out": settings["append"], **settings}  # a store is appended to in place
    config: Any = build(config_of(verb, settings), settings, verb)
    path = _run(verb, config, command)
    report_file = path if verb == "report" else path / "report.html"
    if verb in REPORTED and report_file.is_file():
        add_look_page(report_file, settings)
    return path


def _run(verb: str, config: Any, command: str) -> Path:
    with_command: dict[str, Callable[..., Path]] = {
        "probe": probe, "finetune": finetune, "audit": audit, "matrix": matrix,
        "controls": controls, "few-shot": few_shot,
    }  # fmt: skip
    if verb in with_command:
        return with_command[verb](config, command)
    functions: dict[str, Callable[[Any], Path]] = {"prepare": prepare, "pretrain": pretrain, "report": report}
    return functions[verb](config)


def run_worth(settings: dict[str, Any], command: str = "") -> str:
    """Return what the verb worth says; a,b stands for a list of columns and FIRST:LAST for two dates."""
    given = dict(settings)
    for name, sign in (("columns", ","), ("labelled", ":")):
        if isinstance(given.get(name), str):
            given[name] = [word.strip() for word in given[name].split(sign)]
    config: Any = build(WorthConfig, given, "worth")
    return worth(config, command)

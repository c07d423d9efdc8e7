"""earthssl: pretrain transformers on unlabelled reanalysis, and prove what the frozen encoder is worth.

The public names are imported when first used, so that `import earthssl` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "open_source": ".ssl.sources",
    "prepare": ".ssl.prepare.prepare",
    "pretrain": ".cli.pretrain",
    "load_encoder": ".ssl.inference.load",
    "list_registry": ".ssl.hub.pull",
    "pull": ".ssl.hub.pull",
    "push": ".ssl.hub.push",
    "probe": ".cli.probe",
    "finetune": ".downstream.finetune.finetune",
    "load_finetuned": ".downstream.finetune.predictor",
    "report": ".downstream.report.report",
    "export": ".ssl.inference.export",
    "EncoderTransformer": ".ssl.inference.sklearn_transformer",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Run: what the folder of a pretraining holds, read back to be reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import read_json
from .read_summary import read_table

HISTORY = ("step", "name", "value")


@dataclass(frozen=True, eq=False)
class Run:
    """A pretraining run's folder.

    Attributes:
        name: Name of the folder.
        folder: Where it lies.
        identity: The config it ran with.
        record: `run.json`: what it took.
        history: Columns step, name, value.
        example: File with a masked and rebuilt window, None where there is none.
    """

    name: str
    folder: Path
    identity: dict[str, Any]
    record: dict[str, Any]
    history: pd.DataFrame
    example: Path | None

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """Return the run in a folder.

        Raises:
            EarthSSLError: If the folder or a file in it is missing, or the run did not finish.
        """
        path = Path(folder)
        if not path.is_dir():
            raise EarthSSLError(f"expected a pretraining run at {path}, found no folder; make one, or mend `runs`")
        config = read_json(path / "config.json", "a run's config")
        if not (path / "run.json").is_file():
            raise EarthSSLError(f"expected a finished run at {path}, found no run.json; finish it with --resume")
        example = path / "example.nc"
        return cls(
            name=path.resolve().name,
            folder=path,
            identity=config.get("identity", {}),
            record=read_json(path / "run.json", "a run's record"),
            history=read_table(path / "history.csv", HISTORY),
            example=example if example.is_file() else None,
        )

    @property
    def seed(self) -> str:
        """Return the seed, as text."""
        return str(self.identity.get("training", {}).get("seed", "not recorded"))

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values of one name of the history."""
        chosen = self.history[self.history["name"] == name].sort_values("step", kind="stable")
        return chosen["step"].to_numpy(dtype=float), chosen["value"].to_numpy(dtype=float)

    def names(self, prefix: str) -> list[str]:
        """Return the names of the history that begin with a prefix, sorted, the prefix taken off."""
        names = self.history["name"].astype(str).unique()
        return sorted(name[len(prefix) :] for name in names if name.startswith(prefix))


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run, told apart by its parent folder where two folders share one."""
    names = [run.name for run in runs]
    longer = [f"{run.folder.resolve().parent.name}/{run.name}" for run in runs]
    return [full if names.count(short) > 1 else short for short, full in zip(names, longer, strict=True)]

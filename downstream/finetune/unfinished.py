"""What an unfinished fine-tuning keeps beside its folder, so that the same command goes on where it was stopped.

Every network that is done is a file, and so is the state of the one in training at its last look at validation. The
folder has the name of the results with ".unfinished" behind it, and goes when they appear. Everything else, the heads
in closed form, is made again.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import digest, locked, read_json, write_json
from ...ssl.common.versions import versions
from ...ssl.model.encoder import Encoder
from ..training.fine_tuning import Finetuned
from ..training.saved_state import read_state, write_state
from .head import TaskHead, TaskNetwork

BEGUN = "begun.json"


@dataclass(frozen=True)
class Unfinished:
    """A folder of finished networks, and of states of those in training.

    Attributes:
        folder: Where they are; None keeps nothing.
    """

    folder: Path | None = None

    def state(self, name: str) -> Path | None:
        """Return the file for the state of a training."""
        return None if self.folder is None else self.folder / f"{name}.state.pt"

    def network(self, name: str, encoder: Encoder) -> tuple[TaskNetwork, Finetuned, np.ndarray] | None:
        """Return a finished network in evaluation mode, how it was trained, and what it says of the test samples.

        Args:
            name: Of the training.
            encoder: Of the same shape; its weights are replaced.
        """
        found = None if self.folder is None else read_state(self.folder / f"{name}.pt")
        if found is None:
            return None
        network = TaskNetwork(encoder, TaskHead(found["shape"]))
        network.load_state_dict(found["weights"])
        own = {**found["trained"], "history": [(int(a), float(b)) for a, b in found["trained"]["history"]]}
        return network.eval(), Finetuned(**own), found["said"].numpy()

    def keep(self, name: str, network: TaskNetwork, trained: Finetuned, said: np.ndarray) -> None:
        """Keep a finished network; the state of its training goes."""
        if self.folder is None:
            return
        own = {key: getattr(trained, key) for key in Finetuned.__dataclass_fields__}
        write_state(self.folder / f"{name}.pt", {
            "shape": network.head.shape, "weights": network.state_dict(), "said": torch.from_numpy(said),
            "trained": own | {"frozen": dict(trained.frozen), "history": [list(one) for one in trained.history]},
        })  # fmt: skip
        (self.folder / f"{name}.state.pt").unlink(missing_ok=True)


@contextmanager
def unfinished(out: Path, record: Mapping[str, Any]) -> Iterator[Unfinished]:
    """Hold the folder of what is unfinished beside `out`; it goes with a run that ends well.

    Args:
        out: Of the results.
        record: What the networks are made from, plain values: settings, and digests of data, labels and checkpoint.

    Raises:
        EarthSSLError: If another process is at it, or it was begun from something else.
    """
    folder = out.with_name(out.name + ".unfinished")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        key = {"digest": digest(dict(record)), "torch": versions()["torch"]}
        begun = folder / BEGUN
        if not begun.is_file():
            write_json(begun, key)
        elif read_json(begun, "how it was begun") != key:
            raise EarthSSLError(
                f"{folder}: expected a fine-tuning of the same settings, data, labels and checkpoint to go on with, "
                "got another; give the former ones, choose another --out, or remove the folder"
            )
        done = sum(not file.name.endswith(".state.pt") for file in folder.glob("[!.]*.pt"))
        if done:
            print(f"going on: {done} networks are done", file=sys.stderr)
        yield Unfinished(folder)
    shutil.rmtree(folder, ignore_errors=True)

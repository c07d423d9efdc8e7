"""Contenders: the encoders that a probe compares, pretrained ones and their untrained twins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise

from ..ssl.checkpoint import read
from ..ssl.encoder import Encoder, EncoderConfig
from ..ssl.errors import EarthSSLError
from ..ssl.files import sha256
from ..ssl.randomness import key
from ..ssl.store import Store
from .probe import check_fits, checkpoint_folder, twin_seeds

PRETRAINED, UNTRAINED = "pretrained", "untrained"


@dataclass(frozen=True, eq=False)
class Contender:
    """An encoder to be probed.

    Attributes:
        kind: "pretrained" or "untrained".
        seed: Of its pretraining, or of the pretraining that would have begun with its weights.
        encoder: Frozen, in evaluation mode.
        weights_sha256: What its cached features are named by.
        source: What result.json says of it.
    """

    kind: str
    seed: int
    encoder: Encoder
    weights_sha256: str
    source: dict[str, Any]


def contenders(
    store: Store, checkpoints: Sequence[str], untrained_seeds: int, shape: EncoderConfig | None = None
) -> list[Contender]:
    """Return the pretrained encoders, then untrained twins: the weights that each pretraining began with.

    Args:
        store: What they must fit: variables, grid, step, scaling, and blocks that keep the test block unseen.
        checkpoints: Checkpoint or run folders of one recipe at several seeds; may be empty with a shape.
        untrained_seeds: Number of twins.
        shape: Of the twins where there are no checkpoints.

    Raises:
        EarthSSLError: If a checkpoint does not fit the store, or there is nothing to probe.
    """
    folders = [checkpoint_folder(Path(path)) for path in checkpoints]
    loaded = [read(folder) for folder in folders]
    for folder, (_, record) in zip(folders, loaded, strict=True):
        check_fits(folder, record, store, loaded[0][1])
    shape = loaded[0][1].encoder if loaded else shape
    if shape is None:
        raise EarthSSLError("expected checkpoints, or the shape of an encoder to probe untrained, got neither")
    found = []
    for folder, (encoder, record) in zip(folders, loaded, strict=True):
        digest = sha256(folder / "encoder.safetensors")
        source = {"path": str(folder), "fingerprint": record.fingerprint, "steps": record.steps, "sha256": digest}
        found.append(
            Contender(
                PRETRAINED, record.seed, encoder.eval().requires_grad_(False), digest, {"seed": record.seed} | source
            )
        )
    for seed in twin_seeds([record.seed for _, record in loaded], untrained_seeds):
        torch.manual_seed(key(seed, "init") & (2**63 - 1))
        twin = shape.build(store.variables).eval().requires_grad_(False)
        digest = hashlib.sha256(serialise(twin.state_dict())).hexdigest()
        found.append(Contender(UNTRAINED, seed, twin, digest, {"seed": seed, "steps": 0, "sha256": digest}))
    if not found:
        raise EarthSSLError("expected at least one checkpoint or one untrained seed to probe, got none")
    return found

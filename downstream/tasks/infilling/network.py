"""A network trained on the hidden cells themselves: the encoder from scratch, and a linear head to every patch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ....ssl.model.encoder import EncoderConfig
from ...results.row import Role, Row
from ...training.from_scratch import SCRATCH, ScratchConfig, learn
from ...training.patch_network import PatchNetwork
from .gappy import Gappy


def trained_fillers(
    config: ScratchConfig,
    shape: EncoderConfig,
    gappies: Mapping[str, Gappy],
    ends: np.ndarray,
    seeds: int,
    years: np.ndarray | None = None,
) -> Iterator[Row]:
    """Yield the row of a network for each seed, one for all kinds of gaps.

    It learns the hidden cells by squared error, as heads do. Validation chooses the number of steps; with all years the
    network is trained anew on training and validation together, as heads are refitted.

    Args:
        config: How to train.
        shape: Of the encoder, as it is pretrained.
        gappies: By name of the kind of gaps.
        ends: Test times to fill.
        seeds: How many networks.
        years: Of training that it may see, nothing being refitted; None: all.
    """
    kinds: Sequence[Gappy] = list(gappies.values())
    own = kinds[0].anomalies
    patch = shape.patch[1:]
    posed = [kind.posed(patch) for kind in kinds]
    steps = len(own.store.times)
    blocks = {part: own.ends(part, shape.window) for part in ("train", "val")}
    if years is not None:
        blocks["train"] = blocks["train"][np.isin(own.years[blocks["train"]], years)]
    # A sample is a time seen through one kind of gaps.
    train, val = (
        np.concatenate([k * steps + rows for k in range(len(kinds))]) for rows in (blocks["train"], blocks["val"])
    )

    def errors(network: PatchNetwork, samples: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield weighted squared errors and weights, summed over some samples of one kind of gaps."""
        for k, kind in enumerate(kinds):
            mine = samples[samples // steps == k] % steps
            if not len(mine):
                continue
            truth, weight = (torch.from_numpy(part).float() for part in posed[k])
            for last, fields, times in kind.windows(mine, shape.window):
                wanted = truth[torch.from_numpy(last)]
                w = torch.isfinite(wanted) * weight
                out = network(kind.batch(fields, times))
                yield (w * (out - torch.nan_to_num(wanted)) ** 2).sum(), w.sum()

    def loss(network: PatchNetwork, chosen: np.ndarray) -> Tensor:
        found, weights = zip(*errors(network, chosen), strict=True)
        return torch.stack(found).sum() / torch.stack(weights).sum().clamp(min=1e-12)

    @torch.no_grad()
    def filled(network: PatchNetwork, kind: Gappy) -> np.ndarray:
        parts = []
        for last, fields, times in kind.windows(ends, shape.window):
            parts.append(kind.joined(network(kind.batch(fields, times)).numpy(), patch, last))
        return np.concatenate(parts)

    def new() -> PatchNetwork:
        return PatchNetwork(shape.build(own.store.variables), patch[0] * patch[1])

    fit = np.concatenate([train, val]) if years is None else None
    for seed in range(seeds):
        found = learn(new, loss, lambda network: float(loss(network, val)), train, fit, config, seed)
        chosen = {"features": "hidden cells only", "steps": found.steps, "validation_error": found.score}
        forecast = {name: filled(found.network, kind) for name, kind in gappies.items()}
        yield Row(SCRATCH, Role.SCRATCH, forecast, seed, chosen)

"""Redundancy: how much features vary, and repeat one another, over the batch of all ranks (VICReg's terms)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn

EPSILON = 1e-4


def across_ranks(x: Shaped[Tensor, "view sample *rest"]) -> Shaped[Tensor, "view all_samples *rest"]:
    """Return the samples of all ranks, with gradients; x itself where there is one process.

    Every rank must bring equally many samples, and compute the whole loss from what it gets. A rank's own
    samples carry its gradient, times the number of ranks: data-parallel training takes the mean over the ranks,
    which is then the gradient of the loss of the joined batch. Nothing has to be sent on the way back.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    ranks = dist.get_world_size()
    parts = [torch.empty_like(x) for _ in range(ranks)]
    dist.all_gather(parts, x.detach().contiguous())
    if x.requires_grad:
        parts[dist.get_rank()] = x + (ranks - 1) * (x - x.detach())
    return torch.cat(parts, 1)


def parts(
    z: Float[Tensor, "2 sample width"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the three terms of the paper's algorithm 1, in single precision whatever the embeddings come in.

    Invariance is the mean over samples and features of the squared difference (the weight of 25 is meant for the
    mean over the features; equation 5 writes a sum). Variance is the mean over the features of the shortfall of
    sqrt(var + 1e-4) from 1, covariance the sum of the squared off-diagonal covariances over the number of
    features, each summed over the two views. Of a single sample the variance counts as 0.
    """
    variance, covariance = spread_terms(z)
    with torch.autocast(z.device.type, enabled=False):
        return nn.functional.mse_loss(z[0].float(), z[1].float()), variance, covariance


def spread_terms(z: Float[Tensor, "view sample width"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the terms of variance and covariance alone, each summed over the views."""
    with torch.autocast(z.device.type, enabled=False):
        z = z.float()
        centred = z - z.mean(1, keepdim=True)
        matrix = centred.transpose(1, 2) @ centred / max(z.shape[1] - 1, 1)
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        spread = (diagonal + EPSILON).sqrt()
        off = matrix**2 - torch.diag_embed(diagonal**2)
        return nn.functional.relu(1 - spread).mean(1).sum(), off.sum() / z.shape[2]


def departures(features: Float[Tensor, "*two batch token width"]) -> Float[Tensor, "*two batch token width"]:
    """Return features less the mean of their token over the batch, scaled so that their mean square is the variance."""
    count = features.shape[-3]
    return (features - features.mean(-3, keepdim=True)) * (count / max(count - 1, 1)) ** 0.5

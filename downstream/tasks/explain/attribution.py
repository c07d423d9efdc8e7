"""Attribution methods for any scalar function of fields: what each input cell contributes to the index, in K.

A function takes values (n, step, variable, row, column) and the sample that each stands in for (n,), and returns
(n,). The baseline of every method is the climatology: a normalised anomaly of 0. Attributions have the shape of the
values and are shares of the index, so that cells add up; a missing cell is at the climatology and gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.progress import track
from ....ssl.common.randomness import key
from ....ssl.fields.grid import LatLonGrid

Function = Callable[[Tensor, Tensor], Tensor]
AT_ONCE = 128  # windows in one call of the function
SAMPLES_AT_ONCE = 8  # of integrated gradients
MOST_STEPS = 1024
FRESH = 32  # perturbed inputs that LIME's fidelity is measured on
KERNEL_WIDTH = 0.5  # of LIME, in shares of superpixels switched off


def captum_attr() -> Any:
    """Return captum.attr.

    Raises:
        EarthSSLError: If captum is not installed.
    """
    try:
        import captum.attr
    except ImportError:
        raise EarthSSLError(
            "explain: expected the package captum, found none; install it with: pip install 'earthssl[explain]'"
        ) from None
    return captum.attr


def evaluate(function: Function, values: Tensor, at: Tensor) -> Tensor:
    """Return the function's values without gradients, some windows at a time, (n,)."""
    with torch.no_grad():
        parts = [function(values[k : k + AT_ONCE], at[k : k + AT_ONCE]) for k in range(0, len(values), AT_ONCE)]
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Gradients:
    """Integrated gradients and their completeness.

    Attributes:
        attribution: K, of the values' shape.
        steps: Points on the path that were needed.
        gap: Largest |Σ attribution - (f(x) - f(climatology))| over the samples, relative to the root mean square of
            f(x) - f(climatology).
    """

    attribution: Tensor
    steps: int
    gap: float


def integrated_gradients(
    function: Function, values: Tensor, at: Tensor, steps: int = 32, tolerance: float = 0.01
) -> Gradients:
    """Return integrated gradients along the straight path from the climatology (Sundararajan et al. 2017).

    The number of points is doubled until the attributions add up.

    Args:
        function: Differentiable.
        values, at: The samples.
        steps: Points of Gauss-Legendre's rule to begin with.
        tolerance: Of the gap, see `Gradients`.

    Raises:
        EarthSSLError: If captum is missing, or the attributions do not add up with the most points.
    """
    method = captum_attr().IntegratedGradients(function)
    change = evaluate(function, values, at) - evaluate(function, torch.zeros_like(values), at)
    size = float(change.double().square().mean().sqrt())
    while True:
        parts = []
        for k in range(0, len(values), SAMPLES_AT_ONCE):
            part = slice(k, k + SAMPLES_AT_ONCE)
            own = {"additional_forward_args": (at[part],), "n_steps": steps, "internal_batch_size": AT_ONCE}
            parts.append(method.attribute(values[part], 0.0, **own).detach())
        found = torch.cat(parts)
        missed = float((found.double().flatten(1).sum(1) - change).abs().max())
        gap = missed / size if size > 0 else missed
        if gap <= tolerance:
            return Gradients(found, steps, gap)
        if 2 * steps > MOST_STEPS:
            raise EarthSSLError(
                f"integrated gradients: expected attributions that add up to f(x) - f(climatology) within "
                f"{tolerance:g} of its size ({size:.3g} K), got a gap of {gap:.3g} with {steps} points; "
                "raise explain.tolerance"
            )
        steps *= 2


def superpixels(grid: LatLonGrid, variables: int, size: Sequence[int]) -> np.ndarray:
    """Return the number of the block (rows × columns, one variable, all steps) that each cell lies in.

    Returns:
        int64 (variable, row, column), from 0. Blocks at the southern and eastern edge may be smaller.
    """
    rows, columns = grid.shape
    across = -(-columns // size[1])
    own = (np.arange(rows) // size[0])[:, None] * across + np.arange(columns)[None, :] // size[1]
    return np.stack([own + v * (own.max() + 1) for v in range(variables)])


def check_samples(regions: np.ndarray, samples: int) -> None:
    """Raise an EarthSSLError unless LIME's perturbed inputs are more than the superpixels."""
    count = int(regions.max()) + 1
    if samples < count + 2:
        raise EarthSSLError(
            f"explain.lime_samples: expected more than the {count} superpixels, got {samples}; raise it, or enlarge "
            "explain.superpixel"
        )


def lime(
    function: Function, values: Tensor, at: Tensor, valid: Tensor, regions: np.ndarray, samples: int, seed: int
) -> tuple[Tensor, np.ndarray]:
    """Return LIME (Ribeiro et al. 2016) on superpixels, each one's coefficient shared by its observed cells.

    Superpixels are switched off (to the climatology) at random, half of them each time, and a ridge regression with
    weights exp(-d²/s²) is fitted to the index, d the share of superpixels off.

    Args:
        function: Any.
        values, at, valid: The samples, and where they were observed.
        regions: From `superpixels`.
        samples: Perturbed inputs for each sample; more than there are superpixels.
        seed: Of the perturbations.

    Returns:
        K, of the values' shape; and each sample's fidelity, R² of the surrogate on fresh perturbations, (n,).

    Raises:
        EarthSSLError: If captum is missing, or there are too few perturbed inputs.
    """
    attr = captum_attr()
    from captum._utils.models.linear_model import SkLearnRidge

    check_samples(regions, samples)
    count = int(regions.max()) + 1
    mask = torch.from_numpy(regions)
    numbers = mask.expand(values.shape[1:])[None]
    found, fidelity = torch.zeros_like(values), np.empty(len(values))
    for i in track(range(len(values)), "LIME"):
        draw = torch.Generator().manual_seed(key(seed, "lime", i) & (2**63 - 1))

        def switched(_: Tensor, draw: torch.Generator = draw, **__: Any) -> Tensor:
            return (torch.rand(1, count, generator=draw) < 0.5).long()

        model = SkLearnRidge(alpha=1e-3)
        method = attr.Lime(function, interpretable_model=model, similarity_func=_nearness, perturb_func=switched)
        one, where = values[i : i + 1], at[i : i + 1]
        weights = method.attribute(
            one, 0.0, additional_forward_args=(where,), feature_mask=numbers, n_samples=samples,
            perturbations_per_eval=AT_ONCE, return_input_shape=False,
        )[0]  # fmt: skip
        cells = torch.zeros(count).index_add_(0, numbers.flatten(), valid[i].float().flatten())
        found[i] = (weights / cells.clamp(min=1))[numbers[0]] * valid[i]
        on = torch.rand(FRESH, count, generator=draw) < 0.5
        truth = evaluate(function, one * on[:, mask][:, None], where.expand(FRESH))
        error = on.float() @ weights + float(model.bias()) - truth
        fidelity[i] = 1 - float(error.square().mean() / truth.var(correction=0).clamp(min=1e-12))
    return found, fidelity


def _nearness(_: Tensor, __: Tensor, on: Tensor, **___: Any) -> Tensor:
    return torch.exp(-((1 - on.float().mean()) ** 2) / KERNEL_WIDTH**2)


def sliding_blocks(grid: LatLonGrid, variables: int, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Return the positions of a block of rows × columns of one variable: bool (position, variable, row, column).

    On a periodic grid it slides across the seam; elsewhere the last ones may reach over the edge.
    """
    height, width = grid.shape

    def starts(cells: int, length: int, step: int) -> range:
        return range(0, max(cells - length, 0) + step if cells > length else 1, step)

    across = range(0, width, stride[1]) if grid.periodic else starts(width, size[1], stride[1])
    made = []
    for top in starts(height, size[0], stride[0]):
        for left in across:
            block = torch.zeros(height, width, dtype=torch.bool)
            columns = torch.arange(left, left + size[1])
            columns = columns % width if grid.periodic else columns[columns < width]
            block[top : top + size[0], columns] = True
            made.append(block)
    each = torch.eye(variables, dtype=torch.bool)[:, None, :, None, None]
    return (each & torch.stack(made)[None, :, None]).flatten(0, 1)


def occlusion(function: Function, values: Tensor, at: Tensor, valid: Tensor, blocks: Tensor) -> Tensor:
    """Return what the index loses where a block is set to the climatology in all steps (Zeiler & Fergus 2014).

    Each block's loss is shared by its observed cells; a cell gets the mean over the blocks that cover it. By hand,
    because captum's Occlusion knows no longitude that wraps.

    Args:
        function: Any.
        values, at, valid: The samples, and where they were observed.
        blocks: From `sliding_blocks`.

    Returns:
        K, of the values' shape.
    """
    covered = blocks.float().sum(0).clamp(min=1)
    found = torch.zeros_like(values)
    whole = evaluate(function, values, at)
    for i in track(range(len(values)), "occlusion"):
        cells = (blocks[:, None] & valid[i]).float().flatten(1).sum(1)
        some = cells > 0  # a block of land changes nothing
        hidden = values[i] * ~blocks[some][:, None]
        loss = whole[i] - evaluate(function, hidden, at[i].expand(len(hidden)))
        share = torch.einsum("k,kvrc->vrc", loss / cells[some], blocks[some].float())
        found[i] = (share / covered) * valid[i]
    return found


def optimal_input(
    function: Function, at: Tensor, valid: Tensor, wanted: Tensor, penalty: float = 0.1, steps: int = 60
) -> Tensor:
    """Return the smallest departures from the climatology that give wanted values of the index (Toms et al. 2020).

    From 0, by L-BFGS, no randomness: the sum over samples of ((f(x) - wanted)/wanted)² + penalty × mean of x² over
    the observed cells.

    Args:
        function: Differentiable.
        at: Samples whose time and gaps the inputs have, (n,).
        valid: Where those were observed, (n, step, variable, row, column).
        wanted: Index, not 0, (n,).
        penalty: Of the squared departures.
        steps: Most iterations.

    Returns:
        Normalised anomalies, of the shape of `valid`, 0 where nothing was observed.
    """
    seen = valid.float()
    count = seen.flatten(1).sum(1)
    x = torch.zeros_like(seen, requires_grad=True)
    search = torch.optim.LBFGS(
        [x], max_iter=steps, tolerance_grad=1e-8, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        shown = x * seen
        miss = ((function(shown, at) - wanted) / wanted).square()
        total = (miss + penalty * shown.square().flatten(1).sum(1) / count).sum()
        total.backward()
        return total

    step: Any = search.step  # has no types
    step(loss)
    return (x * seen).detach()

"""Several objectives on one encoder: summed or drawn batch by batch, their weights fixed or found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from ..common.errors import EarthSSLError, nearest
from ..common.randomness import key, uniform
from ..data.windows import Windows
from ..fields.batch import Batch
from ..model.encoder import Encoder, EncoderConfig
from ..runtime.distributed import averaged
from .objective import Context, Objective, ObjectiveConfig, Outcome

SAMPLINGS = ("joint", "one")
WEIGHTINGS = ("fixed", "uncertainty", "gradnorm")


@dataclass(frozen=True)
class MultitaskConfig:
    """How several pretext tasks share an encoder.

    Attributes:
        sampling: "joint" (every batch trains all tasks) or "one" (each batch trains one, drawn by weight).
        weighting: "fixed" (the tasks' own weights), "uncertainty" (learnt: Kendall et al. 2018, arXiv
            1705.07115) or "gradnorm" (equal gradient norms on the encoder's last block, tasks that learn
            slowly a little more: Chen et al. 2018, arXiv 1711.02257). The tasks' weights multiply either.
        gradnorm_alpha: How much more slow tasks get.
        gradnorm_lr: Step of the weights at each batch.
        cosine_every: Batches between measurements of the cosine between the tasks' gradients on the encoder,
            logged as `cosine/a~b`; 0 never measures. Needs sampling "joint".
    """

    sampling: str = "joint"
    weighting: str = "fixed"
    gradnorm_alpha: float = 1.5
    gradnorm_lr: float = 0.025
    cosine_every: int = 0

    def __post_init__(self) -> None:
        for name, valid in (("sampling", SAMPLINGS), ("weighting", WEIGHTINGS)):
            value = getattr(self, name)
            if value not in valid:
                raise EarthSSLError(
                    f"multitask.{name}: expected {', '.join(valid)}, got '{value}'." + nearest(value, valid)
                )
        if self.sampling == "one" and (self.weighting == "gradnorm" or self.cosine_every):
            raise EarthSSLError(
                "multitask: gradient norms and cosines compare tasks on one batch, expected sampling joint, got one; "
                "change it, or take weighting fixed or uncertainty and cosine_every 0"
            )
        if self.cosine_every < 0 or not self.gradnorm_lr > 0 or not self.gradnorm_alpha >= 0:
            raise EarthSSLError(
                f"multitask: expected cosine_every ≥ 0, gradnorm_lr > 0 and gradnorm_alpha ≥ 0, got "
                f"{self.cosine_every}, {self.gradnorm_lr}, {self.gradnorm_alpha}"
            )


class Multitask(nn.Module):
    """The weighted sum of several objectives' losses, terms named `task/term`.

    Validation always runs all tasks and sums their losses with the configured weights, whatever training does.
    """

    start: Tensor
    balance: Tensor
    batches: Tensor

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        weights: Mapping[str, float],
        config: MultitaskConfig | None = None,
        spans: Mapping[str, int] | None = None,
    ) -> None:
        """Join the objectives.

        Args:
            objectives: By name, at least one.
            weights: Weight of each, ≥ 0.
            config: How they share the encoder.
            spans: Steps of the window that each wants; all of it by default.

        Raises:
            EarthSSLError: If there is none, or a weight is missing or negative.
        """
        super().__init__()
        if not objectives:
            raise EarthSSLError("objectives: expected at least one pretext task, got none; name one, such as masking")
        for name in objectives:
            if name not in weights or not weights[name] >= 0:
                raise EarthSSLError(f"objectives.{name}.weight: expected a number ≥ 0, got {weights.get(name)}")
        # Module names may not hold dots, task names do not.
        self.objectives = nn.ModuleDict(dict(objectives))
        self.weights = dict(weights)
        self.config = config or MultitaskConfig()
        self.spans = dict(spans or {})
        if self.config.sampling == "one" and not sum(weights[name] for name in objectives) > 0:
            raise EarthSSLError("objectives: sampling one draws tasks by weight, expected a weight above 0, got none")
        if self.config.weighting == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(objectives)))
        if self.config.weighting == "gradnorm":
            self.register_buffer("balance", torch.ones(len(objectives)))
            self.register_buffer("start", torch.zeros(len(objectives)))
        if self.config.cosine_every:
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def span(self) -> int:
        """Steps of the longest window that a task wants; 0 where none was given."""
        return max(self.spans.values(), default=0)

    @property
    def compares(self) -> bool:
        """Whether a task tells the windows of a batch from one another."""
        return any(objective.compares for objective in self.tasks().values())

    @property
    def bars(self) -> tuple[str, ...]:
        """Names of the augmentations that a task cannot bear."""
        return tuple(name for objective in self.tasks().values() for name in objective.bars)

    def tasks(self) -> dict[str, Objective]:
        """Return the objectives by name."""
        return dict(self.objectives.items())  # type: ignore[arg-type]

    def settle(self, windows: Windows) -> None:
        """Let every task learn what it needs to know of the training windows before training starts."""
        for objective in self.tasks().values():
            objective.settle(windows)

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the weighted sum, with every task's own loss and terms by name."""
        names = list(self.objectives)
        if self.training and self.config.sampling == "one":
            names = [self._drawn(batch.number)]
        terms: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        posed: set[str] = set()
        for name in names:
            outcome = self.objectives[name](encoder, batch.cut(0, self.spans.get(name, batch.values.shape[1])))
            losses[name] = outcome.loss
            if outcome.posed:
                posed.add(name)
                terms[f"{name}/loss"] = outcome.loss.detach()
            terms.update({f"{name}/{term}": value for term, value in outcome.terms.items()})
        if self.training and len(names) > 1:
            terms.update(self._cosines(encoder, {name: losses[name] for name in names if name in posed}))
        total, weights = self._total(encoder, losses, posed)
        terms.update({f"{name}/weight": weight for name, weight in weights.items()})
        return Outcome(total, {"loss": total.detach(), **terms})

    def after_step(self, encoder: Encoder, progress: float, taken: Tensor | float = 1.0) -> None:
        """Tell every task that the optimiser made a step, or (`taken` 0) skipped one."""
        for objective in self.tasks().values():
            objective.after_step(encoder, progress, taken)

    def _drawn(self, number: int) -> str:
        """Return the task of a batch: a function of seed and batch number, equal on all ranks."""
        names = list(self.objectives)
        edges = torch.tensor([self.weights[name] for name in names]).cumsum(0)
        at = uniform(torch.tensor([key(0, "task", number)]), 1)[0, 0] * edges[-1]
        return names[int(torch.searchsorted(edges, at, right=True).clamp(max=len(names) - 1))]

    def _total(self, encoder: Encoder, losses: dict[str, Tensor], posed: set[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss, and the weights found where they are not fixed; only posed tasks move those."""
        # A drawn task comes as often as its weight says, so its loss is not weighted again.
        drawn = self.training and self.config.sampling == "one"
        fixed = {name: 1.0 if drawn else self.weights[name] for name in losses}
        if not self.training or self.config.weighting == "fixed":
            parts = [fixed[name] * loss for name, loss in losses.items()]
            return sum(parts[1:], parts[0]), {}
        order = list(self.objectives)
        found: dict[str, Tensor] = {}
        if self.config.weighting == "uncertainty":
            parts = []
            for name, loss in losses.items():
                s = self.log_variance[order.index(name)]
                s = s if name in posed else 0.0 * s
                found[name] = (-s).exp().detach()
                parts.append(fixed[name] * ((-s).exp() * loss + s))
        else:
            if posed == set(losses):
                self._rebalance(encoder, losses)
            found = {name: self.balance[order.index(name)].clone() for name in losses}
            parts = [fixed[name] * found[name] * loss for name, loss in losses.items()]
        return sum(parts[1:], parts[0]), found

    def _rebalance(self, encoder: Encoder, losses: dict[str, Tensor]) -> None:
        """Move the weights one step towards equal gradient norms (GradNorm), their sum kept."""
        shared = [p for p in encoder.blocks[-1].parameters() if p.requires_grad]
        values = averaged(torch.stack([loss.detach().float() for loss in losses.values()]))
        norms = torch.stack([_flat_gradient(loss, shared).norm() for loss in losses.values()])
        fixed = torch.tensor([self.weights[name] for name in losses]).to(norms)
        with torch.no_grad():
            self.start.copy_(torch.where(self.start.any(), self.start, values))
            pace = values / self.start.clamp(min=1e-12)
            pace = (pace / pace.mean().clamp(min=1e-12)) ** self.config.gradnorm_alpha
            pull = self.balance * fixed * norms
            # d/dw of Σ |w_i n_i - target_i|, the target taken as a constant.
            slope = torch.sign(pull - pull.mean() * pace) * fixed * norms
            moved = (self.balance - self.config.gradnorm_lr * slope / norms.mean().clamp(min=1e-12)).clamp(min=1e-3)
            self.balance.copy_(moved * len(moved) / moved.sum())

    def _cosines(self, encoder: Encoder, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the cosine between each two tasks' gradients on the encoder, when it is time to measure."""
        if not self.config.cosine_every:
            return {}
        due = int(self.batches) % self.config.cosine_every == 0
        self.batches += 1
        if not due:
            return {}
        shared = [p for p in encoder.parameters() if p.requires_grad]
        gradients = {name: _flat_gradient(loss, shared) for name, loss in losses.items()}
        return {
            f"cosine/{a}~{b}": nn.functional.cosine_similarity(gradients[a], gradients[b], 0)
            for a, b in combinations(gradients, 2)
        }


def _flat_gradient(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Return the gradient of a loss by the parameters as one vector, its mean over the ranks; the graph stays."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return averaged(torch.cat([part.flatten().float() for part in parts]))


def build_objectives(
    configs: Mapping[str, ObjectiveConfig], context: Context, config: MultitaskConfig | None = None
) -> Multitask:
    """Return the configured tasks on one encoder.

    Raises:
        EarthSSLError: If there are constraints, and no task that they hold.
    """
    shape: EncoderConfig = context.encoder.config
    tasks = {name: settings.build(context) for name, settings in configs.items()}
    if context.constraints is not None and tasks and not any(task.constrained for task in tasks.values()):
        raise EarthSSLError(
            "constraints: expected a pretext task that rebuilds fields and is held to them (lead_time, "
            f"stochastic_lead_time, masking), got {', '.join(tasks)}; add one, or leave the constraints out"
        )
    return Multitask(
        tasks,
        {name: settings.weight for name, settings in configs.items()},
        config,
        {name: settings.span(shape) for name, settings in configs.items()},
    )

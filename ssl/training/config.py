"""The settings of a training."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.errors import EarthSSLError, nearest
from ..data.augmentation import AugmentConfig
from ..data.loaders import ORDERS
from ..data.loading import DEVICES, MODES
from .precision import AUTO, check

STRATEGIES = ("auto", "ddp", "fsdp")

COSINE, STEADY = "cosine", "steady"


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        steps: Optimiser steps.
        batch_size: Windows a step and process.
        lr: Peak learning rate of AdamW.
        warmup_steps: Steps of linear warm-up.
        weight_decay: On matrices; biases, norms and embeddings of one axis have none.
        clip: Largest norm of the gradient.
        batches: "random", or "season": the windows of a batch end in one calendar month, of different years, so
            that a contrastive task cannot tell them apart by the season.
        variable_dropout: Chance of leaving a variable out of a sample (one always stays).
        augment: What else training batches are changed by.
        ema: Decay of an average of the weights, such as 0.999, which is then what is kept; 0 for none.
        accumulate: Batches a step.
        precision: 32-true, bf16-mixed or 16-mixed; auto is bf16-mixed where the device multiplies bf16 natively (on a
            CPU for encoders at least 128 wide), else 32-true, and is recorded as what it was. Several processes give
            the losses of one to 2e-5 in 32-true, to 4e-3 in bf16-mixed.
        checkpoint_activations: Whether blocks forget their activations and compute them again on the way back: less
            memory, a third more arithmetic, the same gradients.
        max_skipped: Steps in a row with a loss or gradient that is not finite (each is skipped) that end the run; with
            16-mixed 16 more, the halvings that its scaler may need.
        compile: Whether to compile the transformer blocks (slow to start, faster to run).
        val_every: Steps between validations, which also measure health and run the online probe.
        log_every: Steps between log lines.
        save_every: Steps between saved states to resume from.
        patience: Validations without a better loss before stopping early; 0 never stops early.
        seed: Root of all randomness.
        data: "resident" (the windows' fields in memory), "streaming" (read from the store's files as asked) or
            "auto" (resident where they take less than half of the free memory). The samples are the same.
        data_device: Where resident fields lie: "cpu", "accelerator", or "auto" (on the accelerator where they take
            less than a quarter of its free memory, before the network is on it).
        accelerator: Lightning's word: auto, cpu, gpu.
        devices: Processes on this machine, each with a device of its own: batch_size is for each of them.
        nodes: Machines; for more than one, start the program with srun or torchrun on each.
        strategy: How they share the work: ddp (auto), or fsdp, which also shares out the weights.
        schedule: After the warm-up, cosine (half a cosine to 0 at `steps`: the run is worth something at its end only)
            or steady (the peak rate, and an average of the weights over about the last tenth of the steps so far in
            their place: the run may end at any step).
        gain: What patience waits for: a validation skill (mean over the tasks) above the last such by this much, and
            the weights of the highest skill are kept; 0 waits for a lower loss, and the last weights are kept.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    batches: str = "random"
    variable_dropout: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    precision: str = AUTO
    checkpoint_activations: bool = False
    max_skipped: int = 10
    compile: bool = False
    val_every: int = 200
    log_every: int = 20
    save_every: int = 200
    patience: int = 0
    seed: int = 0
    data: str = "auto"
    data_device: str = "auto"
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    schedule: str = COSINE
    gain: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def processes(self) -> int:
        """Processes of the run, on all machines."""
        return self.devices * self.nodes

    def by_rule(self, width: int) -> TrainingConfig:
        """Return the settings for an encoder of this width, rules put in numbers: here there are none."""
        return self

    def __post_init__(self) -> None:
        counts = ["steps", "batch_size", "accumulate", "val_every", "log_every", "save_every", "devices", "nodes"]
        counts.append("max_skipped")
        for name in counts:
            if getattr(self, name) < 1:
                raise EarthSSLError(f"training.{name}: expected a whole number ≥ 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "clip", "patience", "gain"):
            least = "> 0" if name == "lr" else "≥ 0"
            if not getattr(self, name) >= 0 or (name == "lr" and not self.lr > 0):
                raise EarthSSLError(f"training.{name}: expected a number {least}, got {getattr(self, name)}")
        check(self.precision)
        words: dict[str, tuple[str, ...]] = {
            "batches": ORDERS, "strategy": STRATEGIES, "data": MODES, "data_device": DEVICES,
            "schedule": (COSINE, STEADY),
        }  # fmt: skip
        for name, valid in words.items():
            value = getattr(self, name)
            if value not in valid:
                raise EarthSSLError(
                    f"training.{name}: expected {', '.join(valid)}, got '{value}'." + nearest(value, valid)
                )
        for name in ("variable_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise EarthSSLError(f"training.{name}: expected a number in [0, 1), got {getattr(self, name)}")
        if self.schedule == STEADY and self.ema:
            raise EarthSSLError(
                f"training.ema: expected 0, as the steady schedule has an average of its own, got {self.ema}"
            )
        if self.gain and self.processes > 1:
            raise EarthSSLError(f"training.gain: expected 0 with several processes, got {self.gain}; leave it out")
        if not 1 <= self.warmup_steps < self.steps:
            raise EarthSSLError(
                f"training.warmup_steps: expected 1 to {self.steps - 1} (fewer than steps), got {self.warmup_steps}"
            )

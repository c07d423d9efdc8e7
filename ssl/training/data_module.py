"""The loaders of a training, for Lightning."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl

from ..common.errors import EarthSSLError
from ..data.loaders import Endless, EvalLoader, TrainLoader
from ..data.mixture import DataSet, Draws, Mixture
from ..data.windows import Windows
from .config import TrainingConfig


class Data(pl.LightningDataModule):
    """The training and validation windows of a run's data sets as Lightning wants them."""

    def __init__(
        self,
        train: Windows,
        val: Windows,
        config: TrainingConfig,
        compares: bool = False,
        others: Sequence[DataSet] = (),
        weights: Sequence[float] = (),
    ) -> None:
        """Prepare.

        Args:
            train, val: Home's windows.
            config: How to train.
            compares: Whether a task compares the windows of a batch.
            others: The data sets beside home.
            weights: Of all sets, home first; not looked at where there is one.
        """
        super().__init__()
        self.train, self.val, self.config, self.others = train, val, config, list(others)
        self.grouping = "spread" if compares and config.batches == "random" else config.batches
        self.draws = Draws(config.seed, weights) if self.others else None
        self.loader: Endless | None = None

    def train_dataloader(self) -> Endless:
        """Return endless batches that start where the trainer's step counter says."""
        trainer = self.trainer
        assert trainer is not None
        loaders = [
            TrainLoader(
                windows,
                self.config.batch_size,
                seed,
                rank=trainer.global_rank,
                ranks=trainer.world_size,
                grouping=self.config.batches,
            )
            for windows, seed in ((self.train, self.config.seed), *((own.train, own.seed) for own in self.others))
        ]
        self.loader = loaders[0] if self.draws is None else Mixture(loaders, self.draws)
        self.loader.first = lambda: trainer.global_step * self.config.accumulate
        held = [loader.windows.fields.device.type for loader in loaders]
        self.loader.threaded = trainer.strategy.root_device.type != "cpu" and "cpu" in held
        return self.loader

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        """Return the validation windows in order, home's first."""
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        parts = [self.val, *(own.val for own in self.others)]
        fewest = min(len(windows) for windows in parts)
        if fewest < ranks:
            raise EarthSSLError(
                f"training.devices: expected at most one process for each of the {fewest} validation windows, "
                f"got {ranks}; lengthen splits.val"
            )
        loaders = [EvalLoader(windows, self.config.batch_size, rank, ranks, self.grouping) for windows in parts]
        return loaders if self.others else loaders[0]

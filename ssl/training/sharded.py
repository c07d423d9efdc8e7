"""Fully sharded training (FSDP2): every process holds a part of each weight, and gathers a block's as it needs them."""

from __future__ import annotations

import copy
from typing import Any

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from ..common.errors import EarthSSLError
from ..model.encoder import Encoder
from .config import TrainingConfig
from .module import Pretraining, blocks
from .multitask import Multitask


class Sharded(Pretraining):
    """Pretraining whose weights, gradients and moments are shared out block by block.

    Tasks with a teacher, averaged weights, weights by gradient norms and the scaler of 16-mixed want whole weights on
    every process: they are refused.
    """

    def __init__(self, encoder: Encoder, objectives: Multitask, config: TrainingConfig) -> None:
        """Prepare.

        Raises:
            EarthSSLError: If a setting wants whole weights.
        """
        super().__init__(encoder, objectives, config)
        whole = {
            "a task without a teacher": any(not p.requires_grad for p in objectives.parameters()),
            "training.ema 0": config.ema > 0,
            "training.precision other than 16-mixed": config.precision == "16-mixed",
            "multitask.weighting other than gradnorm": objectives.config.weighting == "gradnorm",
            "multitask.cosine_every 0": objectives.config.cosine_every > 0,
        }
        wrong = [said for said, found in whole.items() if found]
        if wrong:
            raise EarthSSLError(f"training.strategy fsdp: expected {', '.join(wrong)}; change it, or take ddp")
        # In a list, so that it is no part of this module: what the weights are gathered into, on rank 0.
        self._whole = [Pretraining(copy.deepcopy(encoder), copy.deepcopy(objectives), config)]
        self._is_sharded = False

    def configure_model(self) -> None:
        """Share out the blocks, and what is left as one more piece; Lightning calls it on the process's device."""
        if self._is_sharded:
            return
        self._is_sharded = True
        mesh: Any = self.device_mesh
        for block in blocks(self.encoder, self.objectives):
            fully_shard(block, mesh=mesh["data_parallel"])
        fully_shard(self, mesh=mesh["data_parallel"])
        for step in ("training_step", "validation_step"):
            register_fsdp_forward_method(self, step)

    def on_validation_epoch_end(self) -> None:
        """Gather the weights, before the callbacks look at them."""
        self.gather()

    def gather(self) -> None:
        """Bring the weights together on rank 0; every rank must call it."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self, options=options)
        if self.global_rank == 0:
            self._whole[0].load_state_dict(state)

    def whole(self) -> Pretraining:
        """Return the module with the weights as last gathered."""
        self._whole[0].transfer = self.transfer
        return self._whole[0]

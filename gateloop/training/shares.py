"""Weights and the optimiser's moments in shares, one on each device: PyTorch's FSDP2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from gateloop.models.language_model import LanguageModel
from gateloop.models.time_mixer import TimeMixer

WHOLE = StateDictOptions(full_state_dict=True)
ON_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)  # and nothing on the others


def share_weights(model: LanguageModel, devices: DeviceMesh) -> None:
    """Leave each device its share of every weight; a block's are gathered while it computes.

    All at once where the layers read each other's weights.
    """
    if all(type(mixer).join is TimeMixer.join for mixer in model.mixers):
        for block in model.blocks:
            fully_shard(block, mesh=devices)
    fully_shard(model, mesh=devices)
    # What training calls: the weights outside the blocks, the head's too, are whole from then on
    # until the end of the step.
    register_fsdp_forward_method(model, "features")


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model in shares, whole, on every device."""
    state: Any = get_model_state_dict(model, options=WHOLE)
    return dict(state)


class Shares(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with checkpoints that are those of a single device.

    Lightning numbers the optimiser's state in the order of the model's parameters, torch in the
    order of the groups: a checkpoint that moved between strategies would give moments to the wrong
    weights.
    """

    def __init__(self, devices: int) -> None:
        super().__init__(
            data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        assert self.model is not None
        state: Any = get_optimizer_state_dict(self.model, optimizer, options=ON_FIRST)
        if not state:
            return {}
        numbers = {name: i for i, name in enumerate(self.names(optimizer))}
        groups = [
            {**group, "params": [numbers[name] for name in group["params"]]}
            for group in state["param_groups"]
        ]
        moments = {numbers[name]: part for name, part in state["state"].items()}
        return {"state": moments, "param_groups": groups}

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        assert self.model is not None
        content: dict[str, Any] = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        set_model_state_dict(self.model, content["state_dict"], options=WHOLE)
        for optimizer, state in zip(self.optimizers, content["optimizer_states"], strict=True):
            names = self.names(optimizer)
            named: Any = {
                "state": {names[i]: part for i, part in state["state"].items()},
                "param_groups": [
                    {**group, "params": [names[i] for i in group["params"]]}
                    for group in state["param_groups"]
                ],
            }
            set_optimizer_state_dict(self.model, optimizer, named, options=WHOLE)
            for group in optimizer.param_groups:
                group["betas"] = tuple(group["betas"])  # it has made a list of them
        return content

    def names(self, optimizer: Optimizer) -> list[str]:
        """The parameters' names in the order in which torch numbers an optimiser's state."""
        assert self.model is not None
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups = optimizer.param_groups
        return [names[id(parameter)] for group in groups for parameter in group["params"]]

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Done by ``load_checkpoint``."""

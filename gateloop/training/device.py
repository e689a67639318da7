"""The hardware that a process trains on."""

from __future__ import annotations

import torch

from gateloop.config import Config
from gateloop.errors import InputError
from gateloop.names import Device, Precision
from gateloop.training.job import ALONE, Job


def choose_device(config: Config, local_rank: int = 0) -> torch.device:
    """The device that the config gives to the process ``local_rank`` of this machine.

    InputError where the machine lacks it.
    """
    settings = config.trainer
    cuda = torch.cuda.is_available()
    if settings.device is Device.cuda and not cuda:
        raise InputError("trainer.device=cuda: torch finds no CUDA device here; take cpu or auto")
    if not cuda or settings.device is Device.cpu:
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if settings.devices > found:
        raise InputError(
            f"trainer.devices={settings.devices}: there are {found} GPUs here; take at most "
            f"{found}, or trainer.device=cpu"
        )
    if settings.precision is Precision.bfloat16 and not torch.cuda.is_bf16_supported():
        raise InputError("trainer.precision=bfloat16: this GPU has none; take float32")
    if settings.devices * settings.nodes == 1:
        return torch.device("cuda")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def device_name(device: torch.device, job: Job = ALONE) -> str:
    """The hardware that a figure was measured on."""
    name = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return name if job.size == 1 else f"{job.size} × {name}"

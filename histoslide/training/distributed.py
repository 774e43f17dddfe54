"""Training one network on several devices, as ``torchrun`` starts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fastai.learner import Learner
from fastai.torch_core import num_distrib
from torch import distributed

from histoslide.errors import HistoslideError


def is_distributed() -> bool:
    """Whether ``torchrun`` started this process as one of several."""
    return num_distrib() > 1


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that train together; yields the device of this one.

    Does nothing in a process that trains alone.

    Raises:
        HistoslideError: there are fewer devices than processes on this machine.
    """
    if not is_distributed():
        yield device
        return
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if rank >= count:
            raise HistoslideError(
                f"there are {count} GPUs for process {rank + 1}: start torchrun with "
                f"--nproc_per_node {count}"
            )
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        distributed.barrier()  # what a process did before it joined is now done for all
        yield device
    finally:
        distributed.destroy_process_group()


def train_together(learner: Learner) -> None:
    """Let a learner share its batches with the other processes.

    Raises:
        HistoslideError: accelerate is not installed, which fastai needs for this.
    """
    try:
        from fastai.distributed import DistributedDL, DistributedTrainer  # noqa: PLC0415
    except (ImportError, NameError) as error:  # fastai's module names what it failed to import
        raise HistoslideError(
            "training on several devices needs accelerate: pip install 'histoslide[multi-gpu]'"
        ) from error

    class SharedLoader(DistributedDL):
        """fastai's own sends the order of the patches through CUDA, which not everyone has."""

        def _broadcast(self, order: list[int], rank: int) -> list[int]:
            sent = torch.tensor(order, device=learner.dls.device)
            distributed.broadcast(sent, rank)
            return sent.tolist()

    class Together(DistributedTrainer):
        """fastai's trainer with those loaders."""

        def _wrap_dl(self, loader: object) -> DistributedDL:
            if isinstance(loader, DistributedDL):
                return loader
            return SharedLoader(loader, device=learner.dls.device)

    # Batch norm over all devices needs CUDA; on CPUs each process keeps to its own patches.
    learner.add_cb(
        Together(sync_bn=learner.dls.device.type == "cuda", cpu=learner.dls.device.type == "cpu")
    )

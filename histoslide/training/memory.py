"""How many patches fit into memory at once."""

from __future__ import annotations

import logging

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

logger = logging.getLogger(__name__)

USABLE = 0.8
"""Part of the free memory that a run may plan with; the rest is for buffers of the libraries."""

OVERHEAD = 1.6
"""Peak memory of a training step, as a multiple of what autograd keeps for the backward pass: the
gradients of activations, and workspaces of the convolutions."""

COPIES = 5
"""Copies of the weights that a run holds: weights, gradients, two moments of Adam, an average."""


def fitting_batch_size(network: nn.Module, wanted: int, side_px: int, *, free_bytes: int) -> int:
    """The wanted batch size, or the largest of its halves that fits into memory.

    Args:
        network: on the device where it will train.
        wanted: patches a step.
        side_px: side of what the network sees, in pixels.
        free_bytes: memory that is free there now.
    """
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    left = USABLE * free_bytes - COPIES * weights
    each = OVERHEAD * saved_bytes(network, side_px)
    size = wanted
    while size > 2 and size * each > left:
        size = (size + 1) // 2
    return size


def saved_bytes(network: nn.Module, side_px: int) -> float:
    """Bytes that autograd keeps for the backward pass of one patch, without the weights."""
    device = next(network.parameters()).device
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # or a later tensor would get the address of a freed one
        return tensor

    alive: list[Tensor] = []
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    was_training = network.training
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        images = torch.zeros(2, 3, side_px, side_px, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = network.train()(images)
            functional.cross_entropy(logits, torch.zeros(2, dtype=torch.long, device=device))
    network.train(was_training)
    for name, value in network.named_buffers():  # the batch norms have seen an empty image
        value.copy_(buffers[name])
    return sum(kept.values()) / len(images)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)

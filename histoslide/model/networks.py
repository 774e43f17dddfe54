"""Networks as they are scored with: built from a spec and weights, batch norms folded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from histoslide.model.architectures import load_network
from histoslide.model.spec import ModelSpec
from histoslide.model.timm_body import TimmBody


def folded_network(spec: ModelSpec, state: Mapping[str, Tensor]) -> nn.Sequential:
    """The network of a spec with its weights, batch norms folded, in evaluation mode.

    Raises:
        BundleError: the weights do not fit the architecture.
    """
    return fold_batch_norm(load_network(spec.architecture, len(spec.classes), state))


def fold_batch_norm(network: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm of a body into the convolution before it (evaluation only).

    The sums are the same; the pass over all activations that a batch norm costs is saved. In a body
    of timm's, what is defined before a batch norm need not be what feeds it: there each is folded
    only where it was seen to be.
    """
    body = network[0]
    fed = _feeding_convolutions(body) if isinstance(body, TimmBody) else None
    _fold_children(body, fed)
    return network


def _fold_children(module: nn.Module, fed: Mapping[nn.Module, nn.Module] | None) -> None:
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if (
            isinstance(child, nn.BatchNorm2d)
            and previous
            and isinstance(previous[1], nn.Conv2d)
            and (fed is None or fed.get(child) is previous[1])
        ):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, _after_norm(child))
        else:
            _fold_children(child, fed)
        previous = (name, child)


def _after_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """What a batch norm does beside normalising: timm's have their activation in them."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def _feeding_convolutions(body: TimmBody) -> dict[nn.Module, nn.Module]:
    """The convolution whose result each batch norm is given, where nothing else is given it."""
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return {}
    makers: dict[int, nn.Module] = {}
    readers: dict[int, list[nn.Module]] = {}
    alive: list[Tensor] = []  # or a later tensor would get the address of a freed one

    def look(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        if given and isinstance(given[0], Tensor):
            readers.setdefault(id(given[0]), []).append(module)
            alive.append(given[0])
        if isinstance(module, nn.Conv2d):
            makers[id(result)] = module
            alive.append(result)

    leaves = [m for m in body.modules() if isinstance(m, nn.Conv2d) or not list(m.children())]
    hooks = [m.register_forward_hook(look) for m in {*leaves, *norms}]
    try:
        with torch.no_grad():
            body(torch.zeros(1, 3, *body.smallest_px))
    finally:
        for hook in hooks:
            hook.remove()
    return {
        read[0]: makers[of]
        for of, read in readers.items()
        if of in makers and len(read) == 1 and isinstance(read[0], nn.BatchNorm2d)
    }

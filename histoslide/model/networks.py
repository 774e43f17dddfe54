"""Networks as they are scored with: built from a spec and weights, batch norms folded."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from histoslide.model.architectures import load_network
from histoslide.model.spec import ModelSpec


def folded_network(spec: ModelSpec, state: Mapping[str, Tensor]) -> nn.Sequential:
    """The network of a spec with its weights, batch norms folded, in evaluation mode.

    Raises:
        BundleError: the weights do not fit the architecture.
    """
    return fold_batch_norm(load_network(spec.architecture, len(spec.classes), state))


def fold_batch_norm(network: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm of a ResNet body into the convolution before it (evaluation only).

    The sums are the same; the pass over all activations that a batch norm costs is saved.
    """
    _fold_children(network[0])
    return network


def _fold_children(module: nn.Module) -> None:
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold_children(child)
        previous = (name, child)

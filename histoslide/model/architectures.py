"""Networks by name: a torchvision or timm body with fastai's head, built without importing fastai.

The modules are laid out as ``Sequential(body, head)`` exactly as ``fastai.vision_learner`` lays
them out, so a state dict moves between the two without renaming (a test compares the logits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from histoslide.errors import BundleError, WeightsUnavailableError
from histoslide.model.spec import IMAGENET_MEAN, IMAGENET_STD
from histoslide.model.timm_body import (
    PREFIX,
    TimmBody,
    Triple,
    is_timm,
    timm_body,
    timm_normalisation,
)

BODY_SPLIT = 6
"""Index in a ResNet body where fastai starts its second parameter group (layer3 onwards)."""


class ConcatPool(nn.Module):
    """Adaptive maximum and average pooling to 1x1, concatenated (maximum first, as in fastai)."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, c, h, w) features to (n, 2c, 1, 1)."""
        maximum = torch.amax(features, dim=(2, 3), keepdim=True)
        average = torch.mean(features, dim=(2, 3), keepdim=True)
        return torch.cat([maximum, average], dim=1)


def fastai_head(features: int, classes: int) -> nn.Sequential:
    """The classification head of ``fastai.vision.learner.create_head`` with its defaults.

    Args:
        features: channels that the body puts out.
        classes: number of logits.
    """
    return nn.Sequential(
        ConcatPool(),
        nn.Flatten(),
        nn.BatchNorm1d(2 * features),
        nn.Dropout(0.25),
        nn.Linear(2 * features, 512, bias=False),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(512),
        nn.Dropout(0.5),
        nn.Linear(512, classes, bias=False),
    )


def _resnet(name: str, features: int) -> Callable[[int, bool], nn.Sequential]:
    def make(classes: int, imagenet: bool) -> nn.Sequential:
        # Here, since it takes as long to import as torch, and a network that is compiled already
        # (``histoslide.model.compiled``) is never built.
        from torchvision import models  # noqa: PLC0415

        build = models.get_model_builder(name)
        if imagenet:
            try:
                network = build(weights="DEFAULT")
            except (
                OSError,
                RuntimeError,
            ) as error:  # no network, full disk; a download with a wrong hash
                url = str(models.get_model_weights(name)["DEFAULT"].url)
                raise WeightsUnavailableError(
                    f"ImageNet weights of {name} could not be fetched ({error}): fetch {url} on "
                    f"another machine and put it, as {url.rpartition('/')[2]}, into "
                    f"{torch.hub.get_dir()}/checkpoints; or start from --pretrained shipped or none"
                ) from error
        else:
            # Residual branches that start at zero: a deep network trained from nothing learns
            # from the first steps on (Goyal et al. 2017, section 5.1).
            network = build(weights=None, zero_init_residual=True)
        body = nn.Sequential(*list(network.children())[:-2])
        return _with_head(body, features, classes)

    return make


def _with_head(body: nn.Module, features: int, classes: int) -> nn.Sequential:
    head = fastai_head(features, classes)
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(body, head)


ARCHITECTURES: Mapping[str, Callable[[int, bool], nn.Sequential]] = {
    "resnet18": _resnet("resnet18", 512),
    "resnet34": _resnet("resnet34", 512),
    "resnet50": _resnet("resnet50", 2048),
}
"""Name to ``make(classes, imagenet)``; a new network is one more entry. Beside them, ``timm/NAME``
is any network of timm's."""


def build_network(architecture: str, classes: int, *, imagenet: bool = False) -> nn.Sequential:
    """Build a network that maps normalised (n, 3, h, w) float tiles to (n, classes) logits.

    Args:
        architecture: a key of ``ARCHITECTURES``, or ``timm/NAME``.
        classes: number of logits.
        imagenet: start the body from ImageNet weights of torchvision or timm (fetched on first
            use).

    Raises:
        BundleError: no such architecture.
        WeightsUnavailableError: the ImageNet weights can neither be found nor fetched.
    """
    if is_timm(architecture):
        body = timm_body(architecture, imagenet=imagenet)
        return _with_head(body, body.features, classes)
    _refuse_unknown(architecture)
    return ARCHITECTURES[architecture](classes, imagenet)


def normalisation(architecture: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation that the ImageNet weights of an architecture expect.

    Per channel, of RGB in 0-1 units.

    Raises:
        BundleError: no such architecture.
    """
    if is_timm(architecture):
        return timm_normalisation(architecture)
    _refuse_unknown(architecture)
    return IMAGENET_MEAN, IMAGENET_STD


def split_body(body: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of a body in two groups, of which the first learns more slowly.

    A ResNet is split where fastai splits it; a body of timm's in the middle of its layers with
    weights, in the order in which they are defined.
    """
    if not isinstance(body, TimmBody):
        first = list(body[:BODY_SPLIT].parameters())  # type: ignore[index]
        return first, list(body[BODY_SPLIT:].parameters())  # type: ignore[index]
    parameters = list(body.parameters())
    weights = [index for index, parameter in enumerate(parameters) if parameter.ndim > 1]
    middle = weights[len(weights) // 2]
    return parameters[:middle], parameters[middle:]


def _refuse_unknown(architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        raise BundleError(
            f"unknown architecture {architecture!r}: choose from {', '.join(ARCHITECTURES)}, or "
            f"{PREFIX}NAME"
        )


def load_network(architecture: str, classes: int, state: Mapping[str, Tensor]) -> nn.Sequential:
    """Build a network and give it its weights; in evaluation mode.

    Args:
        architecture: a key of ``ARCHITECTURES``, or ``timm/NAME``.
        classes: number of logits.
        state: its state dict.

    Raises:
        BundleError: no such architecture, or the weights are not those of one.
    """
    network = build_network(architecture, classes)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BundleError(f"the weights do not fit {architecture}: {reason}") from None
    return network.eval()

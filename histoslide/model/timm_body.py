"""Bodies from timm, the library of image networks, under the names ``timm/NAME``.

timm is imported only where such a network is built: it takes as long to import as torch, and a
network that is compiled already (``histoslide.model.compiled``) is never built.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from histoslide.errors import BundleError, WeightsUnavailableError
from histoslide.model.spec import TOTAL_STRIDE_PX

PREFIX = "timm/"
"""What the names of these architectures begin with."""

STRIP_PX = 4096
"""Length of the strip of ``is_local``: half of it is more than the largest fields that
convolutional networks in use see (Araujo et al. 2019, "Computing Receptive Fields")."""

Triple = tuple[float, float, float]


class TimmBody(nn.Module):
    """A timm network without its classifier, whose features come out as (n, c, rows, columns)."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network that was built with ``num_classes=0``."""
        super().__init__()
        self.network = network

    @property
    def features(self) -> int:
        """Channels that come out."""
        return int(self.network.num_features)  # type: ignore[arg-type]

    @property
    def smallest_px(self) -> tuple[int, int]:
        """Height and width of images that are as small as it surely takes."""
        config: dict[str, Any] = getattr(self.network, "pretrained_cfg", None) or {}
        if not config.get("fixed_input_size"):
            return 2 * TOTAL_STRIDE_PX, 2 * TOTAL_STRIDE_PX
        _, height, width = config["input_size"]
        return int(height), int(width)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised (n, 3, h, w) images to features."""
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        if features.ndim == 3:  # the tokens of a transformer: those of the image, row by row
            features = features[:, getattr(self.network, "num_prefix_tokens", 0) :]
            rows = math.isqrt(features.shape[1])
            return features.unflatten(1, (rows, -1)).permute(0, 3, 1, 2)
        if getattr(self.network, "output_fmt", None) == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features


def is_timm(architecture: str) -> bool:
    """Whether an architecture is one of timm's."""
    return architecture.startswith(PREFIX)


def timm_body(architecture: str, *, imagenet: bool = False) -> TimmBody:
    """Build a body.

    Args:
        architecture: ``timm/NAME``.
        imagenet: start from the weights that timm calls pretrained (fetched on first use).

    Raises:
        BundleError: timm has no such network, or it has no features to pool.
        WeightsUnavailableError: its weights can neither be found nor fetched.
    """
    timm = _timm(architecture)
    name = architecture.removeprefix(PREFIX)
    try:
        network = timm.create_model(name, pretrained=imagenet, num_classes=0, global_pool="")
    except (OSError, RuntimeError, ValueError) as error:
        if not imagenet:
            raise BundleError(f"{architecture} cannot be built ({_line(error)})") from error
        raise WeightsUnavailableError(
            f"pretrained weights of {architecture} could not be fetched ({_line(error)}): fetch "
            f"{_address(timm, name)} on another machine and pass it to --pretrained; or start from "
            "--pretrained shipped or none"
        ) from error
    except TypeError as error:  # a network that takes none of the two settings
        raise BundleError(f"{architecture} cannot serve as a body ({_line(error)})") from error
    if not hasattr(network, "forward_features"):
        raise BundleError(f"{architecture} cannot serve as a body: it gives no features to pool")
    return TimmBody(network)


def _address(timm: Any, name: str) -> str:
    """Where timm's weights of a network come from."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return "them"
    if config.hf_hub_id:
        return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
    return str(config.url or "them")


def is_local(body: TimmBody) -> bool:
    """Whether a feature depends on its surroundings only, and not on all of the image.

    Tried, not read off: squeeze-and-excitation, attention and normalisation over the image all
    show in a long strip whose other half changes. A network that refuses the strip is not local.
    """
    noise = torch.Generator().manual_seed(0)
    strip = torch.randn(1, 3, 2 * TOTAL_STRIDE_PX, STRIP_PX, generator=noise)
    changed = strip.clone()
    changed[..., STRIP_PX // 2 :] += 4
    try:
        with torch.no_grad():
            first, other = body(strip)[..., 0], body(changed)[..., 0]
    except (RuntimeError, AssertionError, ValueError):
        return False
    return torch.allclose(first, other, rtol=1e-4, atol=1e-5)


def pads_itself(convolution: nn.Conv2d) -> bool:
    """Whether a convolution pads as TensorFlow does: by the size of what it is given."""
    return type(convolution).__name__ == "Conv2dSame"


def pad_alike(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """Images padded as a convolution that ``pads_itself`` pads them."""
    from timm.layers.padding import pad_same  # noqa: PLC0415 - see the top

    padded: Tensor = pad_same(
        images,
        list(convolution.kernel_size),
        list(convolution.stride),
        list(convolution.dilation),
    )
    return padded


def timm_normalisation(architecture: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation that the pretrained weights of a network expect.

    Raises:
        BundleError: timm has no such network.
    """
    config = _timm(architecture).get_pretrained_cfg(architecture.removeprefix(PREFIX))
    mean, std = (tuple(map(float, values)) for values in (config.mean, config.std))
    if len(mean) != 3 or len(std) != 3:
        raise BundleError(f"{architecture} is not for RGB images")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _timm(architecture: str) -> Any:
    """The models of timm, of which this is one.

    Raises:
        BundleError: it is not.
    """
    with warnings.catch_warnings():
        # In a notebook without widgets tqdm, which comes with timm, asks for them; no bar is drawn.
        warnings.filterwarnings("ignore", message="IProgress not found")
        import timm.models  # noqa: PLC0415 - see the top

    name = architecture.removeprefix(PREFIX)
    if not timm.models.is_model(name.partition(".")[0]):
        near = timm.models.list_models(f"*{name[:8]}*")[:3] or timm.models.list_models()[:3]
        raise BundleError(
            f"timm has no network {name!r}: it has, for example, {', '.join(near)}; "
            "timm.list_models() lists them all"
        )
    return timm.models


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

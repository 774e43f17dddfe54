"""Which models and strides allow whole areas to be scored in one pass of the network."""

from __future__ import annotations

from histoslide.errors import BundleError
from histoslide.model.spec import TOTAL_STRIDE_PX, ModelSpec


def refuse_areas(spec: ModelSpec, *, stride_px: int) -> None:
    """Make sure that a model's sizes allow to score areas.

    Raises:
        BundleError: they do not, and why.
    """
    if spec.network_px != spec.input_px:
        raise no_areas(spec, f"it resizes tiles of {spec.input_px} px to {spec.network_px} px")
    if spec.input_px % TOTAL_STRIDE_PX:
        raise no_areas(
            spec, f"its tiles of {spec.input_px} px are no multiple of {TOTAL_STRIDE_PX} px"
        )
    if stride_px % TOTAL_STRIDE_PX:
        raise no_areas(spec, f"a stride of {stride_px} px is no multiple of {TOTAL_STRIDE_PX} px")


def no_areas(spec: ModelSpec, reason: str) -> BundleError:
    """The error that says why a model cannot score areas, and what to do."""
    return BundleError(f"model {spec.name} cannot score whole areas ({reason}): use --mode exact")

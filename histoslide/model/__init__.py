"""Trained models: what they are, how they are kept, and how they predict."""

from histoslide.model.batches import Batches, Request
from histoslide.model.bundle import (
    SHIPPED,
    default_bundle,
    file_sha256,
    is_bundle,
    load_bundle,
    measure_bundle,
    read_spec,
    save_bundle,
    shipped_bundle,
)
from histoslide.model.devices import pick_device
from histoslide.model.prediction import Model, load_model, make_model
from histoslide.model.spec import ModelSpec

__all__ = [
    "SHIPPED",
    "Batches",
    "Model",
    "ModelSpec",
    "Request",
    "default_bundle",
    "file_sha256",
    "is_bundle",
    "load_bundle",
    "load_model",
    "make_model",
    "measure_bundle",
    "pick_device",
    "read_spec",
    "save_bundle",
    "shipped_bundle",
]

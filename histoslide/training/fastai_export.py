"""fastai's own ``export.pkl``: written for those who go on in a notebook, read on request.

A pickle runs code while it is opened, so reading one is for files of people you trust. What comes
out is what a bundle holds, and from there on nothing knows that there was a pickle.

A fastai export records its classes and how it prepares pictures, but not what a picture is: how
large its patches were, at which resolution, and which part of a patch its label speaks of. Those
must be said. The preparation is not read off a list of transforms, of which anybody can add their
own; it is measured by sending known pictures through it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fastai.data.transforms import IntToFloatTensor
from fastai.learner import Learner
from fastai.torch_core import TensorImage
from fastai.vision.core import PILImage, image2tensor
from torch import Tensor, nn
from torch.nn import functional

from histoslide.errors import BundleError, DataError
from histoslide.model.architectures import ARCHITECTURES, build_network, load_network
from histoslide.model.bundle import file_sha256
from histoslide.model.graphs import TileGraph
from histoslide.model.spec import ModelSpec
from histoslide.storage.writing import refuse_existing, whole_file
from histoslide.training.checkpoint import why_unwritten
from histoslide.training.fit import tumour_class
from histoslide.training.loaders import without_patches

logger = logging.getLogger(__name__)

SPEC_ATTRIBUTE = "histoslide_spec"
"""Attribute of an exported Learner that holds the JSON of the spec, if histoslide wrote it."""

EXACT = 0.004
"""Mean difference of prepared pictures, in parts of full scale, that rounding to 8 bits explains:
fastai's ``Resize`` works on 8-bit pictures, histoslide on floats."""

SIMILAR = 0.03
"""Mean difference that another way of resampling explains. Resizing on the device, as
``aug_transforms(size=…)`` does, comes to 0.02 when it halves a picture, cutting off a tenth of the
rim to more than 0.1."""


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What is said about an export beside the file; None leaves it to what the file records."""

    mpp: float | None = None
    """Micrometres per pixel of the patches."""
    input_px: int | None = None
    """Side of the patches before any resizing, in pixels."""
    label_px: int | None = None
    """Side of the centre square that a label speaks of, in pixels."""
    classes: Sequence[str] | None = None
    """Names for the classes, in the order of the network's outputs."""
    tumour: str | None = None
    """The class that means tumour, where its name does not say so."""
    name: str | None = None
    """Of the model."""
    licence: str | None = None
    """Of the weights."""


def write_export(
    learner: Learner, path: Path, spec: ModelSpec | None = None, *, overwrite: bool = False
) -> None:
    """Write a Learner as ``learner.export()`` does, with nothing in it that is not the model's.

    Folders of this machine and the callbacks that histoslide trained with stay out, and so does
    the optimiser. The Learner is left as it was.

    Args:
        learner: with its DataLoaders; their items are not written.
        path: file to write, conventionally ending in ``.pkl``.
        spec: written along, so that ``read_export`` needs to be told nothing.
        overwrite: replace an existing file.

    Raises:
        OutputExistsError: the file exists and ``overwrite`` is false.
        BundleError: the file cannot be written.
    """
    with pending_export(learner, path, spec, overwrite=overwrite):
        pass


@contextmanager
def pending_export(
    learner: Learner, path: Path, spec: ModelSpec | None = None, *, overwrite: bool = False
) -> Iterator[None]:
    """The same, but the file only gets its name when the block ends without an error.

    What lies under that name later is then the export of a run that has come to its end, and
    never to be taken for an attempt of the same run.
    """
    refuse_existing(path, overwrite=overwrite)
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(whole_file(path))
            with _travelling(learner, spec), without_patches(learner.dls):
                learner.export(partial.absolute())
        except (OSError, RuntimeError) as error:
            raise BundleError(f"{path} cannot be written: {why_unwritten(error)}") from error
        yield


def read_export(
    path: Path, facts: ExportFacts | None = None
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read a Learner that ``learner.export()`` wrote. This runs whatever code the file holds.

    Args:
        path: the pickle.
        facts: what the file does not record.

    Raises:
        BundleError: not a fastai Learner, of a network or with a preparation that histoslide does
            not have, or a fact is neither recorded nor given.
        DataError: it is not clear which class means tumour.
    """
    facts = ExportFacts() if facts is None else facts
    learner = _unpickle(path)
    network = learner.model.cpu().float().eval()
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    try:
        recorded = getattr(learner, SPEC_ATTRIBUTE, None)
        if isinstance(recorded, str):
            spec = _adjust(ModelSpec.from_json(recorded), facts)
        else:
            spec = _examine(learner, state, facts, path)
        _check_network(network, spec, state)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
    return spec, state


@contextmanager
def _travelling(learner: Learner, spec: ModelSpec | None) -> Iterator[None]:
    path, data_path = learner.path, learner.dls.path
    ours = [cb for cb in learner.cbs if type(cb).__module__.partition(".")[0] == "histoslide"]
    learner.path = learner.dls.path = Path()
    learner.remove_cbs(ours)
    if spec is not None:
        setattr(learner, SPEC_ATTRIBUTE, spec.to_json())
    try:
        yield
    finally:
        learner.path, learner.dls.path = path, data_path
        learner.add_cbs(ours)
        if spec is not None:
            delattr(learner, SPEC_ATTRIBUTE)


def _unpickle(path: Path) -> Learner:
    if not path.is_file():
        raise BundleError(f"{path} does not exist: pass a file that learner.export() wrote")
    try:
        learner = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle runs foreign code, which may raise anything
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(
            f"{path} cannot be opened as a pickle ({line}): what its Learner uses must be "
            "installed here, in versions that fit"
        ) from error
    if not isinstance(learner, Learner):
        raise BundleError(
            f"{path} holds a {type(learner).__name__}, not a fastai Learner: write it with "
            "learner.export()"
        )
    return learner


def _adjust(spec: ModelSpec, facts: ExportFacts) -> ModelSpec:
    given = {name: value for name, value in vars(facts).items() if value is not None}
    if (tumour := given.pop("tumour", None)) is not None:
        given["tumour_class"] = tumour
    if (classes := given.get("classes")) is not None:
        given["classes"] = _renamed(spec.classes, classes)
        if spec.tumour_index is not None:
            given.setdefault("tumour_class", classes[spec.tumour_index])
    return dataclasses.replace(spec, **given)


def _renamed(before: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    if len(before) != len(names):
        raise BundleError(f"--class-names gives {len(names)} names for {list(before)}")
    return tuple(names)


def _examine(
    learner: Learner, state: Mapping[str, Tensor], facts: ExportFacts, path: Path
) -> ModelSpec:
    """The spec of a Learner that histoslide did not write."""
    options = {"--mpp UM": facts.mpp, "--input-px PX": facts.input_px}
    options["--label-px PX"] = facts.label_px
    missing = [option for option, value in options.items() if value is None]
    if facts.mpp is None or facts.input_px is None or facts.label_px is None:
        raise BundleError(
            "a fastai export does not record what its patches were: "
            f"convert it with histoslide model convert --to bundle {' '.join(missing)}"
        )
    _check_loss(learner.loss_func)
    classes = _classes(learner, facts)
    architecture = _architecture(state, len(classes))
    mean, std, network_px = _measure_preparation(learner, facts.input_px)
    try:
        tumour = tumour_class(classes, facts.tumour)
    except DataError as error:
        raise BundleError(str(error)) from None
    spec = ModelSpec(
        name=facts.name or path.stem,
        architecture=architecture,
        classes=classes,
        tumour_class=tumour,
        input_px=facts.input_px,
        label_px=facts.label_px,
        mpp=facts.mpp,
        network_px=network_px,
        mean=mean,
        std=std,
        licence=facts.licence or "unspecified",
        training={
            "converted_from": {
                "format": "fastai export",
                "file": path.name,
                "sha256": file_sha256(path),
            }
        },
    )
    _check_preparation(learner, spec, state)
    return spec


def _check_loss(loss: Any) -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]])
    activation = getattr(loss, "activation", None)
    if isinstance(loss, nn.CrossEntropyLoss):
        return
    if activation is None or not torch.allclose(
        torch.as_tensor(activation(logits)), functional.softmax(logits, dim=1)
    ):
        raise BundleError(
            f"it was trained with {_loss_name(loss)}, but its outputs must be logits of a softmax: "
            "train it with CrossEntropyLossFlat"
        )


def _loss_name(loss: Any) -> str:
    return type(getattr(loss, "func", loss)).__name__


def _classes(learner: Learner, facts: ExportFacts) -> tuple[str, ...]:
    vocab = getattr(learner.dls, "vocab", None)
    if vocab is None:
        if facts.classes is None:
            raise BundleError("it records no classes: name them with --class-names")
        return tuple(facts.classes)
    classes = tuple(str(name) for name in vocab)
    return classes if facts.classes is None else _renamed(classes, facts.classes)


def _architecture(state: Mapping[str, Tensor], classes: int) -> str:
    shapes = {name: tensor.shape for name, tensor in state.items()}
    for name in ARCHITECTURES:
        with torch.device("meta"):  # names and shapes, no numbers
            expected = build_network(name, classes).state_dict()
        if shapes == {key: tensor.shape for key, tensor in expected.items()}:
            return name
    raise BundleError(
        f"its network is not vision_learner's own head of {classes} classes on one of "
        f"{', '.join(ARCHITECTURES)}: only these can be converted"
    )


def _measure_preparation(
    learner: Learner, input_px: int
) -> tuple[tuple[float, float, float], tuple[float, float, float], int]:
    """Mean, standard deviation and size, from what black and white patches become."""
    patches = torch.zeros(2, 3, input_px, input_px, dtype=torch.uint8)
    patches[1] = 255
    prepared = _prepare(learner, patches)
    if prepared.shape[2] != prepared.shape[3]:
        raise BundleError(
            f"it makes pictures of {prepared.shape[3]}×{prepared.shape[2]} px of square patches, "
            "but networks here see squares"
        )
    black, white = prepared.double().mean(dim=(2, 3))
    spread = white - black
    if not (spread > 0).all():
        raise BundleError("white patches do not come out lighter than black ones in each channel")
    std, mean = 1 / spread, -black / spread
    r, g, b = (round(value, 6) + 0.0 for value in mean.tolist())  # no -0.0
    sr, sg, sb = (round(value, 6) for value in std.tolist())
    return (r, g, b), (sr, sg, sb), int(prepared.shape[2])


def _check_preparation(learner: Learner, spec: ModelSpec, state: Mapping[str, Tensor]) -> None:
    graph = TileGraph(spec, load_network(spec.architecture, len(spec.classes), state))
    patches = _smooth_patches(spec.input_px)
    theirs, ours = _prepare(learner, patches), graph.prepare(patches)
    scale = torch.tensor(spec.std).view(1, 3, 1, 1)
    difference = float(((theirs - ours) * scale).abs().mean())
    if difference > SIMILAR:
        raise BundleError(
            f"it prepares pictures in a way that histoslide does not have (they differ by "
            f"{difference:.2f} of full scale): only whole patches, resized and normalised, will do"
        )
    if difference > EXACT:
        logger.warning(
            "the export resizes pictures in another way than histoslide (they differ by %.3f of "
            "full scale): its probabilities will differ a little from those in the notebook",
            difference,
        )


def _check_network(network: nn.Module, spec: ModelSpec, state: Mapping[str, Tensor]) -> None:
    """Weights may fit a network that computes something else, as one that ends in a sigmoid."""
    rebuilt = load_network(spec.architecture, len(spec.classes), state)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, spec.network_px, spec.network_px, generator=generator)
    with torch.inference_mode():
        theirs, ours = network(images), rebuilt(images)
    if not torch.allclose(theirs, ours, rtol=1e-3, atol=1e-3):
        raise BundleError(
            f"its network computes something else than a {spec.architecture} with the same weights"
        )


def _prepare(learner: Learner, patches: Tensor) -> Tensor:
    """What the Learner's network gets to see of (n, 3, h, w) uint8 patches in validation."""
    loader = learner.dls.valid
    # An exported DataLoader has forgotten that it validates, and would augment.
    for pipeline in (loader.after_item, loader.before_batch, loader.after_batch):
        pipeline.split_idx = 1
    try:
        items = []
        for patch in patches:
            (item, *_) = loader.after_item((PILImage.create(patch.permute(1, 2, 0).numpy()),))
            items.append((item if isinstance(item, Tensor) else _to_tensor(item),))
        (images, *_) = loader.after_batch(loader.do_batch(items))
        if not images.is_floating_point():
            images = IntToFloatTensor()(images)
    except Exception as error:  # the transforms are anybody's code
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        side = patches.shape[-1]
        raise BundleError(f"its transforms fail on a patch of {side} px ({line})") from error
    return torch.as_tensor(images).as_subclass(Tensor).float()


def _to_tensor(image: PILImage) -> TensorImage:
    return TensorImage(image2tensor(image))


def _smooth_patches(side_px: int) -> Tensor:
    """Two patches that change as slowly as tissue does: noise of about 6 px."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, max(2, side_px // 6), max(2, side_px // 6), generator=generator)
    smooth = functional.interpolate(coarse, size=side_px, mode="bicubic", align_corners=True)
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)

"""Two models as one: a light one sees every tile, the other those that this leaves in doubt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide.model.first_look import ONE_SCALE, FirstLook, Scale, refuse_unlike
from histoslide.model.work import Glances
from histoslide.scoring.mode import EXACT, ScoreMode
from histoslide.storage.records import ABSENT

if TYPE_CHECKING:
    import torch

    from histoslide.model import Batches, ModelSpec
    from histoslide.model.choosing_first_look import ChosenLook
    from histoslide.model.engine import BackendName, Engine, Precision
    from histoslide.model.work import Work
    from histoslide.scoring.block import Scorer
    from histoslide.scoring.lazy import BlockModel
    from histoslide.slide import Slide


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """A model with another that looks first; see ``histoslide.scoring.lazy.BlockModel``.

    Its facts are those of the model that looks again: the heatmap is that model's.

    Raises:
        HistoslideError: the two do not judge the same tiles.
    """

    model: BlockModel
    """Looks again."""
    first: BlockModel
    """Looks first."""
    threshold: float
    """Probability of tumour, on the model's scale, from which it looks again, up to ``certain``."""
    scale: Scale = ONE_SCALE
    """From the first one's probabilities to the model's."""
    weight: float = 0.0
    """Of the first one's log-odds in the value of a cell that both have seen, 0-1."""
    certain: float | None = None
    """Probability of tumour, on the model's scale, from which the first one's word is enough; None
    where the model looks at all from ``threshold`` on."""

    @classmethod
    def of(cls, model: BlockModel, first: BlockModel, look: ChosenLook) -> Cascade:
        """A model with the one that was chosen to look first for it.

        Args:
            model: looks again.
            first: looks first, loaded from ``look.bundle``.
            look: how.
        """
        return cls(
            model=model,
            first=first,
            threshold=look.threshold,
            scale=look.scale,
            weight=look.weight,
            certain=look.certain,
        )

    def __post_init__(self) -> None:
        refuse_unlike(self.model.spec, self.first.spec)

    @property
    def mode(self) -> ScoreMode:
        """The mode to score in."""
        return ScoreMode(
            mode="cascade", cascade_threshold=self.threshold, first_look=self.first_look
        )

    @property
    def first_look(self) -> FirstLook:
        """What is recorded of the one that looks first."""
        first = self.first
        return FirstLook(
            name=first.spec.name,
            sha256=first.sha256,
            engine=str(first.engine),
            ranges_sha256=ABSENT if first.ranges_sha256 is None else first.ranges_sha256,
            scale=self.scale,
            weight=self.weight or ABSENT,
            certain=ABSENT if self.certain is None else self.certain,
        )

    @property
    def spec(self) -> ModelSpec:
        """Of the model."""
        return self.model.spec

    @property
    def sha256(self) -> str:
        """Of the model."""
        return self.model.sha256

    @property
    def engine(self) -> Engine:
        """Of the model."""
        return self.model.engine

    @property
    def ranges_sha256(self) -> str | None:
        """Of the model."""
        return self.model.ranges_sha256

    @property
    def device(self) -> str:
        """Of the model."""
        return self.model.device

    def check(self, work: Work) -> None:
        """Ask the one whose work it is."""
        (self.first if isinstance(work, Glances) else self.model).check(work)

    def here(self) -> BothModels:
        """Both models in the process that computes."""
        return BothModels(self.model.here(), self.first.here())

    def share(self, slide: Slide) -> Slide:
        """As the model does."""
        return self.model.share(slide)


def load_cascade(
    path: Path | str | None = None,
    *,
    device: str | torch.device | None = None,
    backend: BackendName | None = None,
    precision: Precision | None = None,
) -> BlockModel:
    """Load a bundle with the one that was calibrated to look first for it, as ``score`` does.

    Args:
        path: bundle file; None for the one that ships with histoslide.
        device: where to compute; None picks as ``histoslide.model.pick_device``.
        backend: what computes both; None for the fastest that was measured for each.
        precision: in which; None likewise.

    Returns:
        A cascade of both, or the model alone where no first look has passed its gate or the bundle
        of it is not there.

    Raises:
        BundleError: a bundle or a record cannot be read.
        HistoslideError: the backend or the precision cannot be had here.
    """
    from histoslide.model import load_model  # noqa: PLC0415 - heatmaps are read without torch
    from histoslide.model.choosing_first_look import choose_first_look  # noqa: PLC0415

    path = None if path is None else Path(path)
    model = load_model(path, device=device, backend=backend, precision=precision)
    look = choose_first_look(path, sha256=model.sha256, unasked=True)
    if look is None:
        return model
    first = load_model(look.bundle, device=device, backend=backend, precision=precision)
    return Cascade.of(model, first, look)


def mode_of(model: BlockModel) -> ScoreMode:
    """The mode that a model is scored in where none is asked for."""
    return model.mode if isinstance(model, Cascade) else EXACT


@dataclass(frozen=True)
class BothModels:
    """The two models of a cascade in the process that computes; see ``Scorer``."""

    model: Scorer
    """Looks again."""
    first: Scorer
    """Looks first."""

    @property
    def spec(self) -> ModelSpec:
        """Of the one that looks again."""
        return self.model.spec

    def batches(self, work: Work) -> Batches:
        """The queue of the one whose work it is."""
        return self._whose(work).batches(work)

    def compile(self, work: Work, *, only_kept: bool = False) -> None:
        """Make the one ready whose work it is; see ``Model.compile``."""
        self._whose(work).compile(work, only_kept=only_kept)

    def _whose(self, work: Work) -> Scorer:
        return self.first if isinstance(work, Glances) else self.model

"""A model with the one that looks first, for tiles that are at hand.

``histoslide.scoring.cascade`` does the same for the cells of slides, without reading them twice.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import HistoslideError
from histoslide.model.first_look import in_doubt, refuse_unlike, with_again

if TYPE_CHECKING:
    from histoslide.model.choosing_first_look import ChosenLook
    from histoslide.model.prediction import Model

_LEAST = np.finfo(np.float32).tiny
"""Of probabilities, before their logarithm is taken."""


class TwoLooks:
    """Judges tiles as ``histoslide score`` does after a first look.

    Its logits are logarithms of what both models together say, calibrated already: its spec, that
    of the model that looks again, has a temperature of 1.
    """

    def __init__(self, model: Model, first: Model, look: ChosenLook) -> None:
        """Put two models together.

        Args:
            model: looks again.
            first: looks first.
            look: how.

        Raises:
            HistoslideError: the two do not judge the same tiles.
        """
        refuse_unlike(model.spec, first.spec)
        assert model.spec.tumour_index is not None
        self.model, self.first, self.look = model, first, look
        self._tumour = model.spec.tumour_index
        self.spec = dataclasses.replace(model.spec, temperature=1.0)

    @property
    def batch_size(self) -> int:
        """How many tiles to hand over at a time: of one batch, few would be left to look again."""
        return 8 * self.first.batch_size

    def logits(self, tiles: Any) -> NDArray[np.float32]:
        """Logarithms of the probabilities of tiles; see ``Model.logits``."""
        look, tumour = self.look, self._tumour
        glance = _probabilities(self.first, tiles)
        found = look.scale.apply_to_all(glance, tumour)
        doubtful = in_doubt(found[:, tumour], look.threshold, look.certain)
        if doubtful.any():
            again = _probabilities(self.model, tiles[doubtful])
            found[doubtful] = with_again(glance[doubtful, tumour], again, tumour, look.weight)
        return np.log(np.maximum(found, _LEAST))

    def logits_of_views(self, tiles: Any) -> NoReturn:
        """There are none.

        Raises:
            HistoslideError: always.
        """
        del tiles
        raise HistoslideError("eight orientations are averaged of one model: leave the first look")


def _probabilities(model: Model, tiles: Any) -> NDArray[np.float32]:
    """Of any number of tiles, a batch at a time: an accelerator's memory is made for one."""
    starts = range(0, len(tiles), model.batch_size)
    return np.concatenate(
        [model.probabilities(tiles[start : start + model.batch_size]) for start in starts]
    )

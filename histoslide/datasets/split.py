"""How patches are divided into those to learn from and those to be judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import DataError

SplitKind = Literal["auto", "official", "last", "random", "slide", "file"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which patches are held back for validation.

    Raises:
        DataError: an unknown kind, a fraction outside 0 to 1, or a file without kind ``file``.
    """

    kind: SplitKind = "auto"
    """``official`` keeps the validation set that the data bring. ``slide`` holds back whole slides,
    ``random`` any patches, ``last`` the end of the list. ``file`` repeats a saved split. ``auto``
    takes ``official`` where the data bring a validation set, else ``slide`` where slides are
    known, else ``last`` for the Kaggle layout and ``random`` for folders."""
    fraction: float = 0.05
    """Part held back by ``last``, ``random`` and ``slide``."""
    seed: int = 42
    """Of the choice of patches or slides."""
    file: Path | None = None
    """CSV with the columns ``name,part``, as ``save_split`` writes it; for kind ``file``."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SplitKind):
            raise DataError(
                f"{self.kind!r} is no kind of split: choose {', '.join(get_args(SplitKind))}"
            )
        if not 0 < self.fraction < 1:
            raise DataError(
                f"the validation fraction must lie between 0 and 1, not {self.fraction}"
            )
        if (self.kind == "file") != (self.file is not None):
            raise DataError(f"a split of kind {self.kind!r} with the file {self.file} is no split")

    @classmethod
    def parse(cls, text: str, *, fraction: float = 0.05, seed: int = 42) -> Split:
        """A split from what a user types: one of the kinds, or the name of a CSV file.

        Raises:
            DataError: neither a kind nor a file.
        """
        kinds: dict[str, SplitKind] = {kind: kind for kind in get_args(SplitKind) if kind != "file"}
        if text in kinds:
            return cls(kind=kinds[text], fraction=fraction, seed=seed)
        if Path(text).is_file():
            return cls(kind="file", fraction=fraction, seed=seed, file=Path(text))
        raise DataError(f"{text!r} is no split: choose {', '.join(kinds)}, or a CSV with name,part")

    def as_dict(self) -> dict[str, object]:
        """What matters of it for the record, JSON-ready and without a path."""
        if self.file is not None:
            return {"kind": self.kind, "file": self.file.name}
        if self.kind == "official":
            return {"kind": self.kind}
        if self.kind == "last":
            return {"kind": self.kind, "fraction": self.fraction}
        return {"kind": self.kind, "fraction": self.fraction, "seed": self.seed}


def last_indices(count: int, fraction: float) -> NDArray[np.int64]:
    """The end of the list, as the notebook of the Kaggle competition holds it back, shape (k,)."""
    return np.arange(count - round(fraction * count), count, dtype=np.int64)


def random_indices(count: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """The validation indices of fastai's ``RandomSplitter(fraction, seed)``, in its order, (k,)."""
    import torch  # noqa: PLC0415 - who only cuts patches needs none of it

    generator = torch.Generator().manual_seed(seed)
    order: NDArray[np.int64] = torch.randperm(count, generator=generator).numpy()
    return order[: int(fraction * count)]


def slide_indices(
    slides: Sequence[str], labels: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.int64]:
    """All patches of some slides, chosen at random until they are ``fraction`` of all patches.

    Where a class is still absent from them, slides that have it follow. A slide whose loss would
    leave training without one of the classes is never taken.

    Args:
        slides: of each patch, length n.
        labels: class of each patch, shape (n,).
        fraction: of the patches to hold back at least.
        seed: of the order of slides.

    Raises:
        DataError: no slide can be spared.
    """
    import torch  # noqa: PLC0415 - as above

    names, slide_of = np.unique(np.array(slides), return_inverse=True)
    table = np.zeros((len(names), int(labels.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(table, (slide_of, labels), 1)
    whole = table.sum(axis=0)
    held, held_back = [], np.zeros_like(whole)
    generator = torch.Generator().manual_seed(seed)
    for slide in torch.randperm(len(names), generator=generator).tolist():
        enough = held_back.sum() >= fraction * len(slides)
        absent = (held_back == 0) & (whole > 0)
        if enough and not absent.any():
            break
        # Once there are enough patches, only slides with a class that is still absent help.
        helps = not enough or table[slide][absent].any()
        if helps and ((held_back + table[slide] < whole) | (whole == 0)).all():
            held.append(slide)
            held_back += table[slide]
    if not held:
        raise DataError(
            f"none of {len(names)} slides (the first is {names[0]}) can be held back without "
            "taking a class from training: use --split random, or patches of more slides"
        )
    return np.flatnonzero(np.isin(slide_of, held))

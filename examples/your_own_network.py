"""Score with any torch module: here one that calls dark, haematoxylin-rich centres tumour.

It shows the whole seam: a spec says what the network expects and speaks of, and everything else,
from reading at the right resolution to OME-Zarr, follows from it.
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from histoslide import make_heatmap, open_slide, store_heatmap
from histoslide.model import Model, ModelSpec
from histoslide.synthetic import scene_slide


class DarkCentre(nn.Module):
    """Two logits from the mean brightness of the centre 32×32 pixels."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Map (n, 3, 96, 96) tiles, normalised as the spec says, to (n, 2) logits."""
        brightness = tiles[:, :, 32:64, 32:64].mean(dim=(1, 2, 3))
        return torch.stack([brightness, 0.6 - brightness], dim=1) * 10


def main(folder: Path) -> None:
    """Score a synthetic slide with the network above."""
    path = folder / "node.tif"
    scene_slide(path, width=700, height=600, mpp=0.972, seed=2)
    spec = ModelSpec(
        name="dark-centre",
        architecture="none",
        classes=("light", "dark"),
        tumour_class="dark",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        input_px=96,
        label_px=32,
        mpp=0.972,
    )
    model = Model(spec, DarkCentre(), device="cpu", sha256="dark-centre-1")
    heat = store_heatmap(make_heatmap(open_slide(path), model), folder / "heat.zarr")
    print(f"{(heat.probability() > 0.5).sum()} of {heat.status.size} cells are dark")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))

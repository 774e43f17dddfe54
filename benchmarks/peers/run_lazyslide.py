"""LazySlide's part of ``benchmarks/peers.py``; runs in LazySlide's own environment.

python run_lazyslide.py score|read job.json
"""

import json
import sys
from pathlib import Path
from typing import Any


def score(job: dict[str, Any]) -> None:
    """Tiles of the whole slide, ``tile_prediction`` with a model of our own, and the store."""
    import lazyslide as zs  # noqa: PLC0415
    import torch  # noqa: PLC0415

    slide = zs.open_wsi(job["slide"], store=str(Path(job["out"]) / "slide.zarr"))
    zs.pp.tile_tissues(
        slide, job["input_px"], stride_px=job["stride_px"], mpp=job["mpp"], tissue_key=None
    )
    zs.tl.tile_prediction(
        slide,
        custom_model(job),
        batch_size=job["batch"],
        num_workers=job["workers"],
        device="cpu",
        amp=job["amp"],
        autocast_dtype=torch.bfloat16 if job["amp"] else None,
        pbar=False,
    )
    slide.write()


def custom_model(job: dict[str, Any]) -> Any:
    """The network as LazySlide wants it."""
    import torch  # noqa: PLC0415
    from torchvision.transforms import v2  # noqa: PLC0415

    class Classifier:
        name = "classifier"
        columns = ("probability",)

        def __init__(self) -> None:
            self.network = torch.jit.load(str(Path(job["model"]) / "network.pt"))

        def to(self, device: str) -> None:
            self.network.to(device)

        def get_transform(self) -> Any:
            return v2.Compose(
                [
                    v2.ToImage(),
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Normalize(mean=job["mean"], std=job["std"]),
                ]
            )

        def predict(self, image: torch.Tensor) -> dict[str, Any]:
            logits = self.network(image).float()
            return {"probability": logits.softmax(dim=1)[:, job["tumour_index"]].numpy()}

    return Classifier()


def read(job: dict[str, Any]) -> None:
    """Write the tiles that were scored as ``tiles.npz``."""
    import lazyslide as zs  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    slide = zs.open_wsi(job["slide"], store=str(Path(job["out"]) / "slide.zarr"))
    table = slide.shapes["tiles"]
    bounds = table.bounds
    np.savez(
        Path(job["out"]) / "tiles.npz",
        x=bounds["minx"],
        y=bounds["miny"],
        p=table["probability"],
    )


if __name__ == "__main__":
    {"score": score, "read": read}[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))

"""TIAToolbox's part of ``benchmarks/peers.py``; runs in TIAToolbox's own environment.

python run_tiatoolbox.py score|read job.json
"""

import json
import sys
from pathlib import Path
from typing import Any


def score(job: dict[str, Any]) -> None:
    """``PatchPredictor`` over a whole slide with a model of our own."""
    from tiatoolbox.models.engine.patch_predictor import PatchPredictor  # noqa: PLC0415

    predictor = PatchPredictor(
        model=custom_model(job),
        batch_size=job["batch"],
        num_workers=job["workers"],
        device="cpu",
        verbose=False,
    )
    predictor.run(
        images=[Path(job["slide"])],
        patch_mode=False,
        input_resolutions=[{"units": "mpp", "resolution": job["mpp"]}],
        patch_input_shape=(job["input_px"], job["input_px"]),
        stride_shape=(job["stride_px"], job["stride_px"]),
        auto_get_mask=False,
        return_probabilities=True,
        save_dir=Path(job["out"]) / "predictions",
        output_type="zarr",
    )


def custom_model(job: dict[str, Any]) -> Any:
    """The network as TIAToolbox wants it; tiles are normalised a batch at a time."""
    import torch  # noqa: PLC0415
    from tiatoolbox.models.models_abc import ModelABC  # noqa: PLC0415

    mean = 255 * torch.tensor(job["mean"]).view(1, 3, 1, 1)
    std = 255 * torch.tensor(job["std"]).view(1, 3, 1, 1)

    class Classifier(ModelABC):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = torch.jit.load(str(Path(job["model"]) / "network.pt"))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)

        @staticmethod
        def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> Any:
            images = batch_data.to(device).permute(0, 3, 1, 2).float()
            with torch.inference_mode():
                return model((images - mean) / std).softmax(dim=1).numpy()

        @staticmethod
        def postproc(image: Any) -> Any:
            return image.argmax(axis=-1)

    return Classifier().eval()


def read(job: dict[str, Any]) -> None:
    """Write the tiles that were scored as ``tiles.npz``; coordinates come at the model's scale."""
    import numpy as np  # noqa: PLC0415
    import zarr  # noqa: PLC0415

    (path,) = (Path(job["out"]) / "predictions").glob("*.zarr")
    store = zarr.open_group(str(path), mode="r")
    places = np.rint(np.asarray(store["coordinates"])[:, :2] * job["mpp"] / job["slide_mpp"])
    probability = np.asarray(store["probabilities"])[:, job["tumour_index"]]
    np.savez(Path(job["out"]) / "tiles.npz", x=places[:, 0], y=places[:, 1], p=probability)


if __name__ == "__main__":
    {"score": score, "read": read}[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))

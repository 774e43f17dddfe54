"""WSInfer's part of ``benchmarks/peers.py``; runs in WSInfer's own environment.

python run_wsinfer.py score|read job.json
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def score(job: dict[str, Any]) -> None:
    """``wsinfer run`` with a local model, as a user without network would call it."""
    os.environ["WSINFER_FORCE_CPU"] = "1"
    import wsinfer_zoo.client  # noqa: PLC0415

    # The command line asks the network for the list of published models while it is imported.
    empty = wsinfer_zoo.client.ModelRegistry(models={})
    wsinfer_zoo.client.load_registry = lambda *_, **__: empty
    from wsinfer.cli.cli import cli  # noqa: PLC0415

    cli(arguments(job), standalone_mode=False)


def arguments(job: dict[str, Any]) -> list[str]:
    """What stands behind ``wsinfer``: everything that is not grey counts as tissue."""
    options = {
        "--wsi-dir": Path(job["slide"]).parent,
        "--results-dir": job["out"],
        "--config": Path(job["model"]) / "config.json",
        "--model-path": Path(job["model"]) / "network.pt",
        "--batch-size": job["batch"],
        "--num-workers": job["workers"],
        "--patch-overlap-ratio": 1 - job["stride_px"] / job["input_px"],
        "--seg-binary-threshold": 1,
        "--seg-min-object-size-um2": 0,
        "--seg-min-hole-size-um2": 1e12,
    }
    given = [str(part) for pair in options.items() for part in pair]
    return ["run", *given, *(["--speedup"] if job["speedup"] else [])]


def read(job: dict[str, Any]) -> None:
    """Write the tiles that were scored as ``tiles.npz``."""
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    (path,) = (Path(job["out"]) / "model-outputs-csv").glob("*.csv")
    table = pd.read_csv(path)
    probability = table[f"prob_{job['classes'][job['tumour_index']]}"]
    np.savez(Path(job["out"]) / "tiles.npz", x=table["minx"], y=table["miny"], p=probability)


if __name__ == "__main__":
    {"score": score, "read": read}[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))

"""The documentation says what the program does."""

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from histoslide_cli.main import build_parser
from models import colour_model

import histoslide
from histoslide.grid.status import Status
from histoslide.lesions import LesionSettings
from histoslide.render.png import DEFAULT_OVERLAY_PX
from histoslide.scoring.lazy import DEFAULT_THRESHOLD, DEFAULT_TISSUE_THRESHOLD
from histoslide.synthetic import scene_slide
from histoslide.tissue.masks import METHODS

DOCS = Path(__file__).parents[1] / "docs"


def test_help_in_the_reference_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    fill = runpy.run_path(str(DOCS / "make_cli_reference.py"))["fill"]
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    assert fill(page) == page


def test_the_python_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, from top to bottom, with a quick model in the place of that which ships."""
    page = (DOCS / "howto" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 8
    monkeypatch.setattr(histoslide, "load_model", colour_model)
    monkeypatch.chdir(tmp_path)
    scene_slide(tmp_path / "slide.svs", width=400, height=300, mpp=0.972, seed=1)
    (tmp_path / "unknown.svs").symlink_to("slide.svs")
    ring = [[0, 0], [400, 0], [400, 150], [0, 150]]
    (tmp_path / "region.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    assert (names["heat"].status == Status.SCORED).any()
    made = {path.name for path in tmp_path.iterdir()}
    assert {"heat.zarr", "heat.png", "coarse.zarr", "overlay.png", "redness.zarr"} <= made


def test_options_mirror_the_library() -> None:
    """Choices and defaults are typed in the commands, so that --help needs no numpy."""
    parser = build_parser()
    score = parser.parse_args(["score", "a.svs", "--out", "h.zarr"])
    assert score.tissue in METHODS
    assert score.tissue_threshold == DEFAULT_TISSUE_THRESHOLD
    assert score.threshold == DEFAULT_THRESHOLD
    overlay = parser.parse_args(["overlay", "h.zarr", "--out", "h.png"])
    assert overlay.size == DEFAULT_OVERLAY_PX
    reference = " ".join((DOCS / "reference" / "cli.md").read_text(encoding="utf-8").split())
    settings = LesionSettings()
    for said, default in (
        ("cells at or above are outlined", DEFAULT_THRESHOLD),
        ("a focus has at least one cell at or above it", settings.seed_probability),
        ("a focus is made of connected cells at or above it", settings.extend_probability),
        ("join foci nearer than this, in micrometres; 0 joins none", settings.join_gap_um),
        ("leave out lesions of fewer cells", settings.min_cells),
    ):
        assert f"{said} (default: {default:g})" in reference
    for method in METHODS:
        arguments = ["score", "a.svs", "--out", "h.zarr", "--tissue", method]
        assert parser.parse_args(arguments).tissue == method
    with pytest.raises(SystemExit):
        parser.parse_args(["score", "a.svs", "--out", "h.zarr", "--tissue", "guess"])


def test_the_layers_are_those_of_the_contract() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    page = (DOCS / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`histoslide[^|]*) \|", page, re.MULTILINE)
    assert [re.findall(r"`([\w.]+)`", row) for row in rows] == [
        layer.split(" | ") for layer in layers
    ]

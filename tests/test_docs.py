"""The documentation says what the program does."""

import ast
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
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
    assert len(blocks) == 9
    monkeypatch.setattr(histoslide, "load_model", colour_model)
    monkeypatch.setattr(histoslide, "load_cascade", colour_model)
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


def test_the_tree_of_rooms_is_that_of_the_folders() -> None:
    """Mended with ``python docs/make_rooms.py``."""
    page = (DOCS / "design.md").read_text(encoding="utf-8")
    rooms = runpy.run_path(str(DOCS / "make_rooms.py"))
    assert rooms["fill"](page) == page
    named: set[Path] = set()
    parents: dict[int, Path] = {}
    for line in filter(None, rooms["tree"]().splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        path = Path(parents[depth - 1] if depth else "", name)
        parents[depth] = path
        named.add(path if name.endswith("/") else path.with_suffix(".py"))
    library = Path(histoslide.__file__).parent
    commands = library.parent / "cli"
    there = {path.relative_to(library) for path in library.rglob("*.py")}
    there |= {path.relative_to(commands) for path in (commands / "histoslide_cli").glob("*.py")}
    files = {path for path in there if path.name != "__init__.py"}
    assert {path for path in named if path.suffix} == files
    assert {path.parent for path in there} - {Path()} <= named


def test_what_guides_and_examples_use_is_in_the_reference() -> None:
    """What users are shown is what they may rely on."""
    reference = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    documented: set[int] = set()
    for path in re.findall(r"^::: (.+)$", reference, re.MULTILINE):
        value = resolve_name(path)
        documented |= set(
            map(id, vars(value).values() if isinstance(value, ModuleType) else [value])
        )
    used = {name for code in code_for_users() for name in imported_names(code)}
    assert {"histoslide.open_slide", "histoslide.training.fit.train"} <= used
    assert not {name for name in used if id(resolve_name(name)) not in documented}
    public: list[str] = vars(histoslide)["__all__"]
    assert not {name for name in public if id(getattr(histoslide, name)) not in documented}


def code_for_users() -> Iterator[str]:
    """The examples, the notebook and the Python of every guide."""
    root = DOCS.parent
    for example in sorted((root / "examples").glob("*.py")):
        yield example.read_text(encoding="utf-8")
    for page in [root / "README.md", *sorted(DOCS.rglob("*.md"))]:
        yield from re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield "".join(cell["source"])


def imported_names(code: str) -> Iterator[str]:
    """What code imports from histoslide, by its full name."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "histoslide":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

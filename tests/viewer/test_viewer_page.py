"""The viewer's page in a real browser: places, controls, keys, live filling."""

import io
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from heatmaps import stored_heatmap
from pages import (
    COLS,
    FOCI,
    HEIGHT,
    ROWS,
    WIDTH,
    Open,
    Serve,
    extent,
    on_screen,
    overlay,
    pixels,
    served,
    store,
    truth,
    wait_until,
    where,
)
from PIL import Image

from histoslide import quantities
from histoslide.geometry import Size
from histoslide.grid.status import Status
from histoslide.lesions import LesionSettings, find_lesions, write_lesions
from histoslide.report.page import write_report
from histoslide.slide import open_slide
from histoslide.storage.records import to_builtins
from histoslide.storage.writing import swap_folder
from histoslide.store import open_heatmap
from histoslide.store.record import CellCounts
from histoslide.synthetic import decode_fiducial
from histoslide.viewer.catalogue import Catalogue

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page")
    store(made)
    return made


@pytest.fixture(scope="module")
def url(folder: Path, browser: Any) -> Iterator[str]:
    with served(folder / "heat.zarr") as address:
        yield f"{address}view"


@pytest.mark.parametrize("view", ["", "&x=1700&y=1380&mpp=0.4"])
def test_heatmap_and_slide_lie_where_they_were_scored(visit: Open, url: str, view: str) -> None:
    page = visit(f"{url}#opacity=1&foci=0{view}")
    x, y, mpp = where(page)
    if view:
        assert (x, y, mpp) == pytest.approx((1700, 1380, 0.4))
    drawn = overlay(page)
    left, top, right, bottom = on_screen(page, FOCI[1])
    near = np.zeros(drawn.shape[:2], bool)
    low_x, low_y = max(0, int(left) - 5), max(0, int(top) - 5)
    near[low_y : int(bottom) + 5, low_x : int(right) + 5] = True
    found = extent((drawn[..., 3] > 128) & near)
    height, width = drawn.shape[:2]
    seen = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    assert found == pytest.approx(seen, abs=1.01)
    assert tuple(
        drawn[(found[1] + found[3]) // 2, (found[0] + found[2]) // 2, :3]
    ) == pytest.approx((223, 227, 24), abs=4)  # viridis at 0.95
    slide = pixels(page, "document.querySelector('.openseadragon-canvas canvas')")
    patch = slide[height // 2 - 20 : height // 2 + 20, width // 2 - 20 : width // 2 + 20, :3]
    at = decode_fiducial(patch.mean(axis=(0, 1)), width=WIDTH, height=HEIGHT)
    assert at == pytest.approx((x, y), abs=6)


def test_threshold_opacity_and_colours_change_at_once(visit: Open, url: str) -> None:
    page = visit(f"{url}#foci=0&opacity=1")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    few = (overlay(page)[..., 3] > 0).sum()
    page.get_by_label("Threshold").fill("0.1")
    many = overlay(page)
    assert (many[..., 3] > 0).sum() > 10 * few
    page.get_by_label("Threshold").fill("0.96")
    assert not (overlay(page)[..., 3] > 0).any()
    page.get_by_label("Threshold").fill("0.9")
    assert (overlay(page)[..., 3] > 0).sum() == pytest.approx(few, rel=0.02)
    page.get_by_label("Opacity").fill("0.5")
    assert overlay(page)[..., 3].max() in (127, 128)
    before = overlay(page)
    page.get_by_role("combobox", name="Colours").select_option("magma")
    assert (overlay(page) != before).any()
    page.locator("#osd").click(position={"x": 5, "y": 500})
    page.keyboard.press("h")
    assert not (overlay(page)[..., 3] > 0).any()
    page.keyboard.press("h")
    assert (overlay(page)[..., 3] > 0).any()
    assert not [address for address in requests if "/cells/" in address], "nothing is loaded again"


def test_zooming_keeps_scale_bar_and_magnification_true(visit: Open, url: str) -> None:
    page = visit(url)
    _, _, mpp = where(page)
    page.keyboard.press("+")
    _, _, closer = where(page)
    assert closer == pytest.approx(mpp / 1.5, rel=0.02)
    page.get_by_role("button", name="10×").click()
    x, y, mpp = where(page)
    assert mpp == pytest.approx(1.0, rel=0.01)
    assert page.locator("#magnification").inner_text() == "10×"
    assert page.locator("#scale-text").inner_text() == "100 µm"
    assert page.locator("#scale-bar").bounding_box()["width"] == pytest.approx(100, abs=1)
    box = page.locator("#osd").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 100, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -200)
    x2, y2, mpp2 = where(page)
    assert mpp2 < mpp
    assert x2 + 100 * mpp2 == pytest.approx(x + 100, abs=3), "the place under the pointer stays"
    assert y2 == pytest.approx(y, abs=3)
    page.keyboard.press("0")
    assert where(page)[0] == pytest.approx(WIDTH / 2, abs=2)


def test_the_readout_tells_place_and_probability(visit: Open, url: str) -> None:
    page = visit(f"{url}#x=1700&y=1380&mpp=1")
    box = page.locator("#osd").bounding_box()
    centre = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    readout = page.locator("#readout")
    for x, y, text in (
        (1700, 1380, "P(tumour) 0.950"),
        (1590, 1380, "P(tumour) 0.200"),
        (1601, 1281, "P(tumour) 0.950"),
        (1599, 1281, "P(tumour) 0.200"),
    ):
        page.mouse.move(centre[0] + x - 1700, centre[1] + y - 1380)
        playwright.expect(readout).to_contain_text(text)
        spoken = readout.inner_text()
        assert re.search(rf"x {x}|x {x - 1}", spoken), spoken
    page.keyboard.press("0")
    where(page)
    page.mouse.move(box["x"] + 3, box["y"] + box["height"] / 2)
    playwright.expect(readout).to_contain_text("outside the slide")


def test_foci_are_listed_flown_to_and_announced(visit: Open, url: str) -> None:
    page = visit(url)
    items = page.locator("#foci button")
    assert items.count() == 2
    label = items.nth(0).get_attribute("aria-label")
    assert label.startswith("Focus 1, micrometastasis, longest diameter 429 µm, area 0.074 mm²")
    items.nth(1).click()
    row, col, rows, cols = FOCI[2]
    centre = ((col + cols / 2) * 32, (row + rows / 2) * 32)
    assert where(page)[:2] == pytest.approx(centre, abs=3)
    assert items.nth(1).get_attribute("aria-current") == "true"
    assert "Focus 2" in page.locator("#announcer").inner_text()
    assert "focus=2" in page.evaluate("location.hash")
    page.keyboard.press("n")  # around the end
    row, col, rows, cols = FOCI[1]
    assert where(page)[:2] == pytest.approx(((col + cols / 2) * 32, (row + rows / 2) * 32), abs=3)
    page.keyboard.press("p")
    assert where(page)[:2] == pytest.approx(centre, abs=3)
    # a click on a focus in the picture picks it in the list
    page.keyboard.press("0")
    where(page)
    left, top, right, bottom = on_screen(page, FOCI[1])
    page.locator("#osd").click(position={"x": (left + right) / 2, "y": (top + bottom) / 2})
    playwright.expect(items.nth(0)).to_have_attribute("aria-current", "true")


def test_foci_follow_the_threshold_and_go_back(visit: Open, serve: Serve, tmp_path: Path) -> None:
    """Greyed out until the answer has come; what differs from the tables says so."""
    values = truth()
    values[60:63, 60:64] = 0.6
    path = store(tmp_path, values=values)
    write_lesions(
        find_lesions(open_heatmap(path), LesionSettings(seed_probability=0.9)),
        tmp_path / "heat-lesions.csv",
        tmp_path / "heat-lesions.json",
    )
    page = visit(f"{serve(path)}view#focus=1")
    items, differ = page.locator("#foci button"), page.locator("#foci-differ")
    assert items.count() == 2
    assert differ.is_hidden()
    assert "0.50 or more, at least one of 0.90" in page.locator("#foci-how").inner_text()
    held: list[Any] = []
    page.route("**/foci/**", lambda route: held.append(route))  # noqa: PLW0108 - a builtin will not do

    def asked(times: int) -> bool:
        page.wait_for_timeout(50)  # requests are handed over only while something is waited for
        return len(held) == times

    page.get_by_label("Threshold").fill("0.15")
    playwright.expect(page.locator("#foci")).to_have_class("stale")
    for value in ("0.2", "0.3", "0.96", "0.1"):
        page.get_by_label("Threshold").fill(value)
    wait_until(lambda: asked(1))
    held[0].continue_()  # what was asked first is not what is wanted by now
    wait_until(lambda: asked(2))
    assert "extend_probability=0.1&" in f"{held[1].request.url}&"
    playwright.expect(page.locator("#foci")).to_have_class("stale")
    held[1].continue_()
    page.unroute("**/foci/**")
    playwright.expect(page.locator("#foci")).not_to_have_class("stale")
    playwright.expect(items).to_have_count(1)  # all tissue hangs together
    assert items.first.get_attribute("aria-current") == "true", "it holds what was chosen"
    assert "heat-lesions.csv" in differ.inner_text()
    page.get_by_label("Threshold").fill("0.5")
    playwright.expect(items).to_have_count(2)
    playwright.expect(differ).to_be_hidden()
    page.locator("#foci-settings summary").click()
    page.get_by_label("Seed").fill("0.55")
    playwright.expect(items).to_have_count(3)
    page.get_by_label("At least").fill("13")
    playwright.expect(items).to_have_count(1)
    page.get_by_label("At least").fill("0")  # no setting: nothing is asked for
    where(page)
    assert "seed=0.55" in page.url
    assert "cells=13" in page.url
    again = visit(page.url)
    assert again.locator("#foci button").count() == 1
    assert again.locator("#foci-differ").is_visible()
    again.get_by_role("button", name="Back to those").click()
    playwright.expect(again.locator("#foci button")).to_have_count(2)
    playwright.expect(again.locator("#foci-differ")).to_be_hidden()
    assert again.get_by_label("Seed").input_value() == "0.9"
    where(again)
    assert "seed=" not in again.url


def test_outlines_run_along_the_cells(visit: Open, url: str) -> None:
    page = visit(f"{url}#heatmap=0&x=1700&y=1380&mpp=1")
    drawn = overlay(page)
    left, top, right, bottom = on_screen(page, FOCI[1])
    dark = (drawn[..., 3] > 200) & (drawn[..., :3].max(axis=2) < 60)
    middle = int((top + bottom) / 2)
    found = np.flatnonzero(dark[middle])
    assert found[0] == pytest.approx(left, abs=1.6)
    assert found[-1] == pytest.approx(right, abs=1.6)


def test_a_link_restores_the_view(visit: Open, url: str) -> None:
    page = visit(url)
    page.locator("#foci button").nth(1).click()
    page.get_by_label("Threshold").fill("0.3")
    page.get_by_label("Opacity").fill("0.35")
    page.get_by_role("combobox", name="Colours").select_option("cividis")
    page.get_by_label("Status of cells").check()
    place, picture = where(page), overlay(page)
    again = visit(page.url)
    assert where(again) == pytest.approx(place, abs=1)
    assert again.get_by_label("Opacity").input_value() == "0.35"
    assert again.get_by_label("Status of cells").is_checked()
    assert again.locator("#foci button").nth(1).get_attribute("aria-current") == "true"
    same = (np.abs(overlay(again).astype(int) - picture) <= 8).all(axis=2)
    assert same.mean() > 0.97


def test_nonsense_in_a_link_does_no_harm(visit: Open, url: str) -> None:
    page = visit(f"{url}#heat=../../x&x=NaN&mpp=-3&threshold=7&map=%3Cb%3E&with=none&focus=99")
    assert page.get_by_label("Threshold").input_value() == "1"
    assert page.get_by_role("combobox", name="Colours").input_value() == "viridis"
    assert where(page)[0] == pytest.approx(WIDTH / 2, abs=2)


def test_two_heatmaps_are_compared_across_a_border(
    visit: Open, serve: Serve, tmp_path: Path
) -> None:
    store(tmp_path)
    store(tmp_path, "none", values=np.full((ROWS, COLS), 0.05, np.float32))
    address = serve(tmp_path)
    page = visit(f"{address}view#heat=heat&with=none&foci=0&opacity=1&split=0.5")
    left, top, right, bottom = (int(v) for v in on_screen(page, FOCI[1]))
    width = overlay(page).shape[1]
    assert left < width < right * 2, "the border runs through or near the focus"
    curtain = page.get_by_role("slider", name="Border between the two heatmaps")
    for keys, all_of_it in (("ArrowRight", True), ("ArrowLeft", False)):
        for _ in range(25):
            curtain.press(keys)
            if all_of_it is False:
                curtain.press(keys)
        inside = overlay(page)[top + 2 : bottom - 2, left + 2 : right - 2, 3] > 0
        assert inside.all() if all_of_it else not inside.any()
    box = curtain.bounding_box()
    page.mouse.move(box["x"] + 8, 300)
    page.mouse.down()
    page.mouse.move(900, 300)
    page.mouse.up()
    assert curtain.bounding_box()["x"] == pytest.approx(892, abs=3)
    where(page)
    assert re.search(r"split=0\.\d+", page.url)


def test_both_sides_of_the_border_show_the_class_that_is_chosen(
    visit: Open, serve: Serve, tmp_path: Path
) -> None:
    for name, values in (("left", (0.1, 0.2, 0.7)), ("right", (0.5, 0.3, 0.2))):
        stored_heatmap(
            tmp_path / f"{name}.zarr", np.full((ROWS, COLS, 3), values, np.float32), mpp=1.0,
            model_mpp=1.0, classes=("fat", "muscle", "tumour"),
        )  # fmt: skip
    page = visit(f"{serve(tmp_path)}view#heat=left&with=right&threshold=0.25&foci=0")
    readout = page.locator("#readout")
    # None is marked as tumour: the last is shown first, as score does.
    playwright.expect(readout).to_contain_text("P(tumour) 0.700 · right: P(tumour) 0.200")
    page.locator("#class").select_option("muscle")
    playwright.expect(readout).to_contain_text("P(muscle) 0.200 · right: P(muscle) 0.300")


def test_a_heatmap_that_is_replaced_is_shown_anew(
    visit: Open, serve: Serve, tmp_path: Path
) -> None:
    path = store(tmp_path)
    page = visit(f"{serve(path)}view#x=690&y=400&mpp=1&threshold=0.1")
    playwright.expect(page.locator("#readout")).to_contain_text("P(tumour) 0.950")
    values = np.full((ROWS // 2, COLS // 2), 0.125, np.float32)
    with open_slide(tmp_path / "made.tif") as slide:
        stored_heatmap(
            tmp_path / "new.zarr", values, mpp=1.0, model_mpp=1.0, stride_px=64,
            size_l0=Size(WIDTH, HEIGHT), quickhash=slide.quickhash,
        )  # fmt: skip
    swap_folder(tmp_path / "new.zarr", path)
    playwright.expect(page.locator("#readout")).to_contain_text("P(tumour) 0.125", timeout=30_000)
    assert where(page) == pytest.approx((690, 400, 1), abs=2)
    assert page.locator("#facts").inner_text().count("64.0 µm") == 1


def test_a_heatmap_being_written_fills_in(visit: Open, serve: Serve, tmp_path: Path) -> None:
    path = store(tmp_path)
    finished = truth()
    group: Any = zarr.open_group(path, mode="r+")
    status = group["labels/status/0"][:]
    late = np.s_[32:, 32:]  # whole blocks, with the first focus in them
    group["labels/status/0"][late] = Status.PENDING
    group["0"][late] = np.nan
    group.attrs["histoslide"] = {**group.attrs["histoslide"], "complete": False, "counts": None}
    address = serve(path)
    page = visit(f"{address}view#foci=0&opacity=1")
    assert page.locator("#progress").is_visible()
    assert page.locator("#foci button").count() == 1
    box = tuple(int(v) for v in on_screen(page, FOCI[1]))
    middle = (box[1] + box[3]) // 2, (box[0] + box[2]) // 2
    veil = overlay(page)[middle]
    assert tuple(veil[:3]) == pytest.approx((96, 96, 110), abs=3), "not as tissue without tumour"
    group["0"][late] = finished[late]
    group["labels/status/0"][late] = status[late]
    wait_until(lambda: tuple(overlay(page)[middle][:3]) == pytest.approx((223, 227, 24), abs=4))
    playwright.expect(page.locator("#foci button")).to_have_count(2)
    assert page.locator("#progress-text").inner_text().startswith("100 %")
    heat = open_heatmap(path, allow_incomplete=True)
    counts = to_builtins(CellCounts.of(status))
    group.attrs["histoslide"] = {**to_builtins(heat.record), "complete": True, "counts": counts}
    playwright.expect(page.locator("#progress")).to_be_hidden(timeout=30_000)


def test_unreadable_cells_are_hatched_even_where_nothing_is_found(
    visit: Open, serve: Serve, tmp_path: Path
) -> None:
    values = np.full((ROWS, COLS), 0.05, np.float32)
    status = np.full((ROWS, COLS), Status.SCORED, np.uint8)
    values[20:30, 20:40], status[20:30, 20:40] = np.nan, Status.UNREADABLE
    stored_heatmap(
        tmp_path / "h.zarr", values, status=status, mpp=1.0, stride_px=32,
        size_l0=Size(WIDTH, HEIGHT), name='<img src=x onerror="alert(1)">.tif',
    )  # fmt: skip
    address = serve(tmp_path / "h.zarr")
    page = visit(f"{address}view")
    assert page.locator("h1").inner_text() == '<img src=x onerror="alert(1)">.tif'
    assert page.locator("#notice").inner_text().startswith("The slide is not at hand")
    drawn = overlay(page)
    red = (drawn[..., 0].astype(int) - drawn[..., 1] > 80) & (drawn[..., 3] > 100)
    box = on_screen(page, (20, 20, 10, 20))
    assert extent(red) == pytest.approx(box, abs=3)


def test_a_damaged_heatmap_is_announced_and_hatched(tmp_path: Path, browser: Any) -> None:
    path = store(tmp_path)
    (path / "0" / "c" / "1" / "1").unlink()
    context = browser.new_context(viewport={"width": 1300, "height": 800})
    with served(path) as address, closing(context):
        page = context.new_page()
        page.goto(f"{address}view#foci=0")
        page.wait_for_selector("body[data-ready]")
        page.wait_for_load_state("networkidle")
        notice = page.locator("#notice")
        assert notice.is_visible()
        assert "1,024 cells that were scored but have no probability" in notice.inner_text()
        drawn = overlay(page)
        red = (drawn[..., 0].astype(int) - drawn[..., 1] > 80) & (drawn[..., 3] > 100)
        assert extent(red) == pytest.approx(on_screen(page, (32, 32, 32, 32)), abs=3)


def test_numbers_are_written_as_python_writes_them(visit: Open, url: str) -> None:
    page = visit(url)
    rng = np.random.default_rng(5)
    halves = [0.5, 1.5, 2.5, 62.5, 0.0625, 0.1875, 0.0005, 0.0015, 0.12345, 0.005, 1e-9]
    values = [0.0, 1.0, 999.5, 1234.5, 1e6, *halves, *rng.random(60), *(rng.random(60) * 1e5)]
    numbers = [float(it) for it in values]
    for name in ("probability", "threshold", "count", "length", "area", "share", "cell"):
        code = f"(values) => import('./web/quantities.js').then((all) => values.map(all.{name}))"
        assert page.evaluate(code, numbers) == [getattr(quantities, name)(it) for it in numbers]
    mpp = [0.25, 0.2431, 0.49912, 1, 16.8, 0.12345, *(rng.random(60) * 10 + 0.01)]
    code = "(values) => import('./web/quantities.js').then((all) => values.map(all.resolution))"
    assert page.evaluate(code, mpp) == [quantities.resolution(float(it)) for it in mpp]
    code = "(um) => import('./web/quantities.js').then((all) => all.extent(...um))"
    assert page.evaluate(code, [12345, 678]) == quantities.extent(12345, 678)
    code = "(values) => import('./web/quantities.js').then((all) => values.map(all.scale))"
    lengths = [1, 20, 500, 1000, 5000]
    assert page.evaluate(code, lengths) == [quantities.scale(um) for um in lengths]


def test_what_is_chosen_is_white_on_a_wide_black_line(visit: Open, url: str) -> None:
    page = visit(f"{url}#heatmap=0&x=1700&y=1380&mpp=1&focus=1")
    drawn = overlay(page).astype(int)
    left, top, _, bottom = on_screen(page, FOCI[1])
    middle, edge = int((top + bottom) / 2), round(left)
    across = drawn[middle, edge - 6 : edge + 6]
    opaque = across[across[:, 3] > 250]
    assert (opaque.min(axis=1) > 240).any(), "white in the middle"
    assert (opaque[:, :3].max(axis=1) < 15).sum() >= 2, "black beside it"
    assert np.ptp(opaque[:, :3], axis=1).max() < 5, "and no colour"


def test_a_screenshot_is_what_is_seen(visit: Open, url: str) -> None:
    page = visit(f"{url}#opacity=1&foci=0&x=1700&y=1380&mpp=1")
    where(page)
    with page.expect_download() as caught:
        page.keyboard.press("g")
    download = caught.value
    assert download.suggested_filename == "heat.png"
    image = np.asarray(Image.open(io.BytesIO(Path(download.path()).read_bytes())).convert("RGB"))
    drawn = overlay(page)
    assert image.shape[:2] == drawn.shape[:2]
    coloured = drawn[..., 3] == 255
    coloured[-90:] = False  # scale bar and caption
    assert coloured.any()
    np.testing.assert_allclose(image[coloured].astype(int), drawn[coloured][:, :3], atol=3)


@pytest.mark.parametrize("size", [(360, 740), (820, 1180), (1366, 768), (2560, 1400)])
@pytest.mark.parametrize("dark", [False, True])
def test_everything_is_within_reach_at_every_size(
    visit: Open, url: str, size: tuple[int, int], dark: bool
) -> None:
    page = visit(url, width=size[0], height=size[1], dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    for name in ("Zoom in", "Zoom out", "Fit", "Screenshot", "Keys", "Panel"):
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]
    stage = page.locator("#osd").bounding_box()
    assert stage["width"] * stage["height"] > 0.3 * size[0] * size[1]
    page.get_by_role("button", name="Panel").click()
    assert page.locator("#osd").bounding_box()["width"] == size[0]


def test_it_can_be_used_without_seeing_and_without_a_mouse(visit: Open, url: str) -> None:
    page = visit(url)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=slider]")]
            .filter((e) => !e.getAttribute("aria-label"))
            .filter((e) => !(e.labels?.[0] ?? e).textContent.trim())
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {
        "threshold",
        "opacity",
        "map",
        "next-focus",
        "zoom-in",
        "openseadragon-canvas",
    } <= reached
    page.locator(".openseadragon-canvas").first.focus()
    x = where(page)[0]
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    assert where(page)[0] > x


def test_the_overview_sorts_filters_and_opens(visit: Open, serve: Serve, tmp_path: Path) -> None:
    for number, name in enumerate(("b10", "b9", "a1")):
        values = np.full((4, 5), 0.2 + number / 10, np.float32)
        stored_heatmap(tmp_path / f"{name}.zarr", values, name=f"{name}.tif", quickhash=name)
    address = serve(tmp_path)
    page = visit(address)
    links = page.locator("tbody a")
    heading = page.get_by_role("button", name="Slide", exact=True)
    heading.click()
    assert links.all_inner_texts() == ["a1.tif", "b9.tif", "b10.tif"]
    page.get_by_role("button", name="Highest P").click()
    assert links.all_inner_texts() == ["a1.tif", "b9.tif", "b10.tif"]
    page.get_by_role("button", name="Highest P").click()
    assert links.all_inner_texts() == ["b10.tif", "b9.tif", "a1.tif"]
    column = page.get_by_role("columnheader", name="Highest P")
    assert column.get_attribute("aria-sort") == "ascending"
    page.get_by_label("Find").fill("b9")
    assert links.all_inner_texts() == ["b9.tif"]
    links.first.click()
    page.wait_for_selector("#stage")
    page.wait_for_selector("body[data-ready]")
    assert page.locator("h1").inner_text() == "b9.tif"
    page.get_by_role("link", name="All slides").click()
    page.wait_for_selector("table")
    page.wait_for_selector("body[data-ready]")


def test_the_report_puts_foci_where_the_viewer_does(
    visit: Open, url: str, folder: Path, tmp_path: Path
) -> None:
    """One place for the overlay, the outlines and the cells of a report, read from a file."""
    write_report(Catalogue([folder / "heat.zarr"]), tmp_path / "r.html")
    page = visit((tmp_path / "r.html").as_uri())
    picture = page.locator(".stack img").bounding_box()
    assert page.locator(".stack svg").bounding_box() == pytest.approx(picture, abs=1)
    assert page.locator(".stack canvas").bounding_box() == pytest.approx(picture, abs=1)
    drawn = pixels(page, "document.querySelector('.stack canvas')")
    fine = drawn.shape[1] / WIDTH
    for number, (row, col, rows, cols) in FOCI.items():
        top, left, bottom, right = (32 * v for v in (row, col, row + rows, col + cols))
        around = np.s_[
            int(top * fine) - 9 : int(bottom * fine) + 9,
            int(left * fine) - 9 : int(right * fine) + 9,
        ]
        seen = extent(drawn[around][..., 3] > 0)
        assert seen == pytest.approx(
            (9, 9, 9 + (right - left) * fine, 9 + (bottom - top) * fine), abs=2
        )
        box = page.locator(f"svg a[data-focus='{number}'] path.line").evaluate(
            "(path) => (({x, y, width, height}) => [x, y, width, height])(path.getBBox())"
        )
        assert box == pytest.approx((left, top, right - left, bottom - top), abs=0.1)
    few = (drawn[..., 3] > 0).sum()
    page.get_by_label("Threshold").fill("0.1")
    assert (pixels(page, "document.querySelector('.stack canvas')")[..., 3] > 0).sum() > 10 * few
    page.get_by_role("button", name="Show focus 2 in the picture").click()
    assert "chosen" in page.locator("svg a[data-focus='2']").get_attribute("class")
    page.locator("svg a[data-focus='1']").press("Enter")
    assert "chosen" in page.locator("tr[data-focus='1']").get_attribute("class")
    page.get_by_role("button", name="Longest diameter, µm").click()
    rows_ = page.locator("table.foci tbody tr")
    assert rows_.nth(0).get_attribute("data-focus") == "2"
    page.get_by_role("button", name="Longest diameter, µm").click()
    assert rows_.nth(0).get_attribute("data-focus") == "1"

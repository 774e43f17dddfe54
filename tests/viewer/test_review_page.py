"""The page while a review is made, in a real browser: deciding, drawing, two tabs, no server."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import shapely
from pages import FOCI, Open, Serve, extent, overlay, store, where

playwright = pytest.importorskip("playwright.sync_api")

SAVED = "body[data-review=saved]"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the review goes; a heatmap and its slide lie beside it."""
    store(tmp_path)
    return tmp_path / "review.geojson"


@pytest.fixture
def url(file: Path, serve: Serve) -> str:
    return f"{serve(file.parent / 'heat.zarr', review=file)}view"


def objects(file: Path) -> list[Any]:
    return list(json.loads(file.read_text())["features"]) if file.exists() else []


def classes(file: Path) -> list[str]:
    return [it["properties"]["classification"]["name"] for it in objects(file)]


def saved(page: Any) -> None:
    page.wait_for_timeout(50)
    page.wait_for_selector(SAVED)


def outline(feature: Any) -> Any:
    return shapely.geometry.shape(feature["geometry"])


def screen(page: Any, x: float, y: float) -> tuple[float, float]:
    """A level-0 point in pixels of the page."""
    box = page.locator("#osd").bounding_box()
    centre_x, centre_y, mpp = where(page)
    return (
        box["x"] + box["width"] / 2 + (x - centre_x) / mpp,
        box["y"] + box["height"] / 2 + (y - centre_y) / mpp,
    )


def drag(page: Any, points: list[tuple[float, float]]) -> None:
    places = [screen(page, *point) for point in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def test_foci_are_judged_by_key_and_by_click(visit: Open, url: str, file: Path) -> None:
    page = visit(url)
    assert not file.exists(), "looking changes nothing"
    playwright.expect(page.locator("#review-count")).to_have_text("(0 of 2 foci judged)")
    page.keyboard.press("a")  # the first, as none is chosen
    saved(page)
    assert classes(file) == ["Tumor"]
    row, col, rows, cols = (32 * part for part in FOCI[1])
    truth = shapely.box(col, row, col + cols, row + rows)
    assert outline(objects(file)[0]).equals(truth)
    # it went on to the next, which is judged by a click
    row, col, rows, cols = (32 * part for part in FOCI[2])
    assert where(page)[:2] == pytest.approx((col + cols / 2, row + rows / 2), abs=3)
    page.get_by_role("button", name="Reject").click()
    saved(page)
    assert classes(file) == ["Tumor", "Normal"]
    items = page.locator("#foci button")
    assert items.nth(0).get_attribute("data-decision") == "accepted"
    assert items.nth(1).get_attribute("aria-label").endswith("rejected")
    assert page.locator("#reject").get_attribute("aria-pressed") == "true"
    playwright.expect(page.locator("#review-count")).to_have_text("(2 of 2 foci judged)")
    page.keyboard.press("u")
    saved(page)
    assert classes(file) == ["Tumor"]
    assert "Focus 2 left open" in page.locator("#announcer").inner_text()
    # a focus that is clicked in the picture is the one that is judged
    page.keyboard.press("0")
    row, col, rows, cols = (32 * part for part in FOCI[1])
    page.mouse.click(*screen(page, col + cols / 2, row + rows / 2))
    page.keyboard.press("r")
    saved(page)
    assert classes(file) == ["Normal"]


def test_what_was_decided_is_seen_on_the_slide(visit: Open, url: str) -> None:
    page = visit(f"{url}#heatmap=0&x=1700&y=1380&mpp=1")
    page.get_by_label("Then go to").uncheck()
    page.keyboard.press("a")
    saved(page)
    page.evaluate("history.replaceState(null, '', location.hash.replace(/&focus=1/, ''))")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    where(page)
    drawn = overlay(page).astype(int)
    red = (
        (drawn[..., 0] > 150) & (drawn[..., 1] < 60) & (drawn[..., 2] < 60) & (drawn[..., 3] > 200)
    )
    centre = page.locator("#osd").bounding_box()
    row, col, rows, cols = (32 * part for part in FOCI[1])
    left, top = centre["width"] / 2 + col - 1700, centre["height"] / 2 + row - 1380
    assert extent(red) == pytest.approx((left, top, left + cols, top + rows), abs=2.5)


def test_regions_are_drawn_by_corners_and_by_hand(visit: Open, url: str, file: Path) -> None:
    page = visit(f"{url}#x=1400&y=1100&mpp=4")
    before = where(page)
    page.keyboard.press("d")
    corners = [(800.0, 900.0), (1300.0, 920.0), (1250.0, 1500.0), (780.0, 1400.0)]
    for corner in corners:
        page.mouse.click(*screen(page, *corner))
    page.mouse.click(*screen(page, 600, 600))
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    saved(page)
    (region,) = objects(file)
    truth = shapely.Polygon(corners)
    assert region["properties"] == {
        "objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}
    }  # fmt: skip
    assert outline(region).symmetric_difference(truth).area < 0.03 * truth.area
    page.get_by_label("Class of what is drawn").select_option("Normal")
    page.get_by_role("button", name="Draw").click()
    ring = [(2000.0, 300.0), (2500.0, 300.0), (2500.0, 700.0), (2000.0, 700.0), (2000.0, 310.0)]
    drag(page, ring)
    saved(page)
    assert classes(file) == ["Tumor", "Normal"]
    truth = shapely.Polygon(ring)
    assert outline(objects(file)[1]).symmetric_difference(truth).area < 0.06 * truth.area
    assert where(page) == before, "the slide did not move under the pen"
    # its class is changed and it is deleted in the list
    page.get_by_label("Class of region B").select_option("Ignore*")
    saved(page)
    assert classes(file) == ["Tumor", "Ignore*"]
    page.get_by_role("button", name="Delete region A").click()
    saved(page)
    assert classes(file) == ["Ignore*"]
    page.keyboard.press("d")
    page.keyboard.press("Escape")
    assert page.locator("#pen-tools").is_hidden()


def test_an_outline_that_crosses_itself_is_mended(visit: Open, url: str, file: Path) -> None:
    page = visit(f"{url}#x=1400&y=1100&mpp=4")
    page.keyboard.press("d")
    for corner in ((400, 400), (1000, 1000), (1000, 400), (400, 1000)):
        page.mouse.click(*screen(page, *corner))
    page.keyboard.press("Enter")
    saved(page)
    shape = outline(objects(file)[0])
    assert shape.is_valid
    assert shape.area == pytest.approx(600 * 600 / 2, rel=0.05)
    page.keyboard.press("Control+z")
    saved(page)
    assert objects(file) == []
    page.keyboard.press("Control+y")
    saved(page)
    assert outline(objects(file)[0]).equals(shape)


def test_a_region_is_drawn_without_a_mouse(visit: Open, url: str, file: Path) -> None:
    page = visit(f"{url}#x=1400&y=1100&mpp=2")
    page.keyboard.press("d")
    corners = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        corners.append(where(page)[:2])
        page.keyboard.press("Space")
        for _ in range(3):
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    saved(page)
    truth = shapely.Polygon(corners)
    assert truth.area > 100
    assert outline(objects(file)[0]).symmetric_difference(truth).area < 0.1 * truth.area


def test_steps_are_taken_back_and_done_again(visit: Open, url: str, file: Path) -> None:
    page = visit(url)
    for key in "ar":
        page.keyboard.press(key)
    saved(page)
    assert classes(file) == ["Tumor", "Normal"]
    page.keyboard.press("Control+z")
    saved(page)
    assert classes(file) == ["Tumor"]
    page.get_by_role("button", name="Undo").click()
    saved(page)
    assert classes(file) == []
    page.keyboard.press("Control+Shift+Z")
    page.keyboard.press("Control+y")
    saved(page)
    assert classes(file) == ["Tumor", "Normal"]
    page.reload()  # and the steps are known after that too
    page.wait_for_selector("body[data-ready]")
    page.keyboard.press("Control+z")
    saved(page)
    assert classes(file) == ["Tumor"]


def test_a_reload_shows_all_that_was_said(visit: Open, url: str, file: Path) -> None:
    page = visit(url)
    page.keyboard.press("a")
    saved(page)
    again = visit(url)
    assert again.locator("#foci button").nth(0).get_attribute("data-decision") == "accepted"
    # what another program saves is shown without a reload
    document = json.loads(file.read_text())
    document["features"][0]["properties"]["classification"] = {"name": "Normal"}
    file.write_text(json.dumps(document))
    for shown in (page, again):
        first = shown.locator("#foci button").nth(0)
        playwright.expect(first).to_have_attribute("data-decision", "rejected", timeout=15_000)


def test_two_tabs_see_each_other_and_do_not_overwrite(visit: Open, url: str, file: Path) -> None:
    one = visit(url, expected=("409",))
    other = one.context.new_page()
    other.goto(url)
    other.wait_for_selector("body[data-ready]")
    one.keyboard.press("a")
    saved(one)
    first = other.locator("#foci button").nth(0)
    playwright.expect(first).to_have_attribute("data-decision", "accepted")
    other.get_by_role("button", name="Next").click()
    other.get_by_role("button", name="Next").click()
    other.keyboard.press("r")
    saved(other)
    assert classes(file) == ["Tumor", "Normal"]
    # the other does not know yet what the first has changed
    other.evaluate("() => { window.now = fetch; window.fetch = async () => { throw 'late'; }; }")
    one.locator("#foci button").nth(0).click()
    one.keyboard.press("r")
    saved(one)
    assert classes(file) == ["Normal", "Normal"]
    other.locator("#foci button").nth(0).click()
    other.keyboard.press("u")
    other.evaluate("() => { window.fetch = window.now; }")
    trouble = other.locator("#review-trouble")
    playwright.expect(trouble).to_contain_text("Focus 1 was changed elsewhere")
    saved(other)
    assert classes(file) == ["Normal", "Normal"]
    assert first.get_attribute("data-decision") == "rejected"


def test_a_step_is_not_taken_back_over_somebody_elses(visit: Open, url: str, file: Path) -> None:
    one, other = visit(url), visit(url)
    one.keyboard.press("a")
    saved(one)
    first = other.locator("#foci button").nth(0)
    playwright.expect(first).to_have_attribute("data-decision", "accepted", timeout=15_000)
    other.locator("#foci button").nth(0).click()
    other.keyboard.press("r")
    saved(other)
    first = one.locator("#foci button").nth(0)
    playwright.expect(first).to_have_attribute("data-decision", "rejected", timeout=15_000)
    one.keyboard.press("Control+z")
    assert one.locator("#review-trouble").is_visible()
    saved(one)
    assert classes(file) == ["Normal"]


@pytest.mark.parametrize("reload", [False, True])
def test_a_killed_server_loses_nothing(browser: Any, file: Path, reload: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = "from histoslide_cli.main import main; raise SystemExit(main())"
    command = [
        sys.executable, "-c", code, "view", str(file.parent / "heat.zarr"), "--review", str(file),
        "--no-browser", "--port", port, "--token", "t",
    ]  # fmt: skip

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:"), process.communicate()[1]
        return process

    server = start()
    context = browser.new_context(viewport={"width": 1300, "height": 800})
    try:
        page = context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"http://127.0.0.1:{port}/t/view")
        page.wait_for_selector("body[data-ready]")
        page.keyboard.press("a")
        saved(page)
        server.send_signal(signal.SIGKILL)
        server.communicate()
        assert classes(file) == ["Tumor"]
        page.keyboard.press("r")
        page.wait_for_selector("body[data-review=failed]")
        assert "1 change not saved yet" in page.locator("#review-state").inner_text()
        if reload:
            with pytest.raises(playwright.Error, match="ERR_CONNECTION_REFUSED"):
                page.reload()
        server = start()
        if reload:
            page.goto(f"http://127.0.0.1:{port}/t/view")
        page.wait_for_selector(SAVED, timeout=20_000)
        assert classes(file) == ["Tumor", "Normal"]
    finally:
        context.close()
        server.send_signal(signal.SIGINT)
        server.communicate()
    assert [it.name for it in file.parent.iterdir() if "review" in it.name] == ["review.geojson"]


@pytest.mark.parametrize("origin", ["http://stranger.example", "http://127.0.0.1:9"])
def test_another_page_cannot_change_it(browser: Any, url: str, file: Path, origin: str) -> None:
    """One that even knows the token."""
    target = f"{url.removesuffix('view')}api/heatmaps/heat/review"
    asked: list[str] = []
    with closing(browser.new_context()) as context:
        page = context.new_page()
        page.route(f"{origin}/", lambda route: route.fulfill(body="<p>", content_type="text/html"))
        page.on("response", lambda answer: asked.append(f"{answer.status} {answer.request.method}"))
        page.goto(f"{origin}/")
        for headers, mode in (({"content-type": "application/json"}, "cors"), ({}, "no-cors")):
            ended = page.evaluate(
                """([target, headers, mode]) =>
                    fetch(target, {method: "POST", mode, headers, body: "{}"}).then(
                        (answer) => answer.type, () => "refused")""",
                [target, headers, mode],
            )
            assert ended == "refused"
    assert "200 POST" not in asked
    assert not file.exists()


@pytest.mark.parametrize("size", [(360, 740), (1366, 768)])
@pytest.mark.parametrize("dark", [False, True])
def test_a_review_fits_on_a_telephone(
    visit: Open, url: str, size: tuple[int, int], dark: bool, file: Path
) -> None:
    page = visit(url, width=size[0], height=size[1], dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("Accept", "Reject", "Draw", "Undo"):
        button = page.get_by_role("button", name=name)
        button.scroll_into_view_if_needed()
        box = button.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]
    page.get_by_role("button", name="Draw").click()
    for name in ("Add point", "Back", "Close", "Cancel"):
        box = page.locator("#pen-tools").get_by_role("button", name=name).bounding_box()
        assert box["x"] + box["width"] <= size[0]
    middle = page.locator("#osd").bounding_box()
    for x, y in ((-60, -30), (60, -30), (0, 60)):
        page.mouse.click(
            middle["x"] + middle["width"] / 2 + x, middle["y"] + middle["height"] / 2 + y
        )
    page.locator("#pen-close").click()
    saved(page)
    assert classes(file) == ["Tumor"]


def test_a_review_can_be_made_without_seeing(visit: Open, url: str) -> None:
    page = visit(url)
    page.keyboard.press("a")
    assert "Focus 1 accepted, 1 open" in page.locator("#announcer").inner_text()
    page.keyboard.press("d")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select")]
            .filter((e) => !e.getAttribute("aria-label"))
            .filter((e) => !(e.labels?.[0] ?? e).textContent.trim())
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    page.keyboard.press("?")
    assert page.get_by_text("accept, reject the chosen focus").is_visible()


def test_without_a_review_nothing_of_it_is_seen(visit: Open, serve: Serve, tmp_path: Path) -> None:
    store(tmp_path)
    page = visit(f"{serve(tmp_path / 'heat.zarr')}view")
    for key in "aru":
        page.keyboard.press(key)
    assert page.locator("#heading-review").is_hidden()
    page.keyboard.press("?")
    assert page.get_by_text("accept, reject the chosen focus").is_hidden()

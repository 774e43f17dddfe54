"""The viewer's server: what it answers, and everything that it must not."""

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from heatmaps import stored_heatmap
from histoslide_cli.main import main
from models import colour_model
from starlette.testclient import TestClient

from histoslide.cohort.records import write_run
from histoslide.errors import HistoslideError, SlideOpenError, StoreError
from histoslide.geometry import Size
from histoslide.pipeline import ScoreOptions, TissueOptions, score_slide
from histoslide.pipeline.result import SlideResult
from histoslide.synthetic import fiducial_slide
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.server import create_app, web_files
from histoslide.viewer.serving import ServeOptions

EVERYTHING = ScoreOptions(tissue=TissueOptions(method="none", threshold=0), overlay=False)
OPENSEADRAGON = ("6.1.1", "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.tif and the a.zarr that was made from it."""
    folder = tmp_path_factory.mktemp("viewer")
    slide = fiducial_slide(folder / "a.tif", width=900, height=700, mpp=0.972)
    score_slide(slide, folder / "a.zarr", colour_model(), EVERYTHING)
    return folder


def client(*paths: Path, token: str = "", **options: object) -> TestClient:
    app = create_app(Catalogue(list(paths), **options), token=token)  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)


def test_the_page_gets_what_it_needs(scored: Path) -> None:
    web = client(scored / "a.zarr")
    assert web.get("/").headers["location"] == "view"
    page = web.get("/view")
    assert page.headers["content-type"].startswith("text/html")
    for name in re.findall(r'(?:src|href)="(web/[^"]+)"', page.text):
        assert web.get(f"/{name}").status_code == 200, name
    facts = web.get("/api/heatmaps/a").json()
    assert facts["slide"]["present"]
    assert facts["slide"]["size_l0"] == [900, 700]
    assert facts["classes"] == ["tumour"]
    assert web.get("/api/heatmaps/a/state").json()["complete"]
    assert web.get("/api/heatmaps/a/thumbnail").headers["content-type"] == "image/png"
    assert len(web.get("/api/colour-maps").json()["viridis"]) == 256
    tile = web.get(f"/api/heatmaps/a/slide/{facts['slide']['max_level']}/1/1")
    assert tile.headers["content-type"] == "image/jpeg"
    cells = web.get("/api/heatmaps/a/cells/0/0/0/0")
    assert len(cells.content) == 5 * facts["grid"]["rows"] * facts["grid"]["cols"]


def test_modules_of_the_page_import_only_each_other() -> None:
    scripts = {n: b.decode() for n, (b, _) in web_files().items() if n.endswith(".js")}
    for name, text in scripts.items():
        if name != "openseadragon.min.js":
            for imported in re.findall(r'from "([^"]+)"', text):
                assert imported.startswith("./")
                assert imported[2:] in scripts, f"{name} imports {imported}"
            assert "http:" not in text
            assert "https:" not in text
            assert "innerHTML" not in text, "names of files must not become markup"


def test_openseadragon_is_the_one_that_was_reviewed() -> None:
    folder = files("histoslide.viewer").joinpath("web", "third_party")
    code = folder.joinpath("openseadragon.min.js").read_bytes()
    version, digest = OPENSEADRAGON
    assert hashlib.sha256(code).hexdigest() == digest
    assert code.startswith(f"//! openseadragon {version}\n".encode())
    assert "Redistribution" in folder.joinpath("openseadragon.LICENSE.txt").read_text()


@pytest.mark.parametrize(
    "path",
    [
        "/web/..%2f..%2fpyproject.toml",
        "/web/../server.py",
        "/web/%2e%2e/server.py",
        "/web/..\\server.py",
        "/web//etc/passwd",
        "/web/%2fetc%2fpasswd",
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/heatmaps/..%2f..%2fsecret",
        "/api/heatmaps/../secret/state",
        "/api/heatmaps/%2e%2e/state",
        "/api/heatmaps/a.zarr/state",
        "/api/heatmaps/a%00/state",
        "/api/heatmaps/a/slide/0/0/-1",
        "/api/heatmaps/a/slide/99/0/0",
        "/api/heatmaps/a/slide/0/0/99999999999999999999",
        "/api/heatmaps/a/cells/7/0/0/0",
        "/api/heatmaps/a/cells/0/0/999/0",
        "/api/heatmaps/a/foci/4",
        "/api/heatmaps/secret/slide/0/0/0",
        "/a.tif",
        "/a.zarr/zarr.json",
        "/docs",
        "/openapi.json",
    ],
)
def test_nothing_else_can_be_asked_for(scored: Path, path: str) -> None:
    """Sent as they are, not tidied by a client; beside the store lies one that was not given."""
    shutil.copytree(scored / "a.zarr", scored / "secret.zarr", dirs_exist_ok=True)
    web = client(scored / "a.zarr")
    request = web.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = web.send(request)
    assert answer.status_code == 404, answer.text[:200]
    assert b"root:" not in answer.content
    assert answer.headers["content-security-policy"]


@pytest.mark.parametrize("digits", [30, 300, 990, 4301, 60_000])
def test_numbers_without_end_are_refused(scored: Path, digits: int) -> None:
    page = client(scored / "a.zarr")
    for path in ("cells/0/{}/0/0", "cells/0/0/{}/0", "cells/{}/0/0/0", "slide/{}/0/0", "foci/{}"):
        answer = page.get(f"/api/heatmaps/a/{path.format('9' * digits)}")
        assert answer.status_code in (404, 414)
        assert "error" in answer.json()
        assert "content-security-policy" in answer.headers


def test_only_reading_is_possible(scored: Path) -> None:
    web = client(scored / "a.zarr")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert web.request(method, "/api/heatmaps/a").status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "a b", "[::1]:80"])
def test_a_strangers_name_for_this_machine_is_refused(scored: Path, host: str) -> None:
    web = client(scored / "a.zarr")
    assert web.get("/api/heatmaps", headers={"host": host}).status_code == 400
    for mine in ("127.0.0.1:1234", "localhost", "localhost:1"):
        assert web.get("/api/heatmaps", headers={"host": mine}).status_code == 200


def test_every_answer_carries_a_strict_policy(scored: Path) -> None:
    web = client(scored / "a.zarr")
    for path in ("/view", "/web/view.js", "/api/heatmaps", "/nothing", "/api/heatmaps/a/state"):
        headers = web.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
    for name in ("view.html", "index.html"):
        text = web_files()[name][0].decode()
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", text), "inline code"


def test_without_the_token_there_is_nothing(scored: Path) -> None:
    web = client(scored / "a.zarr", token="word")
    for path in ("/", "/view", "/api/heatmaps", "/wor/view", "/word2/view"):
        assert web.get(path).status_code == 404
    assert web.get("/word/").headers["location"] == "view"
    assert web.get("/word/api/heatmaps/a/state").json()["complete"]


def test_what_the_browser_has_is_not_sent_again(scored: Path) -> None:
    web = client(scored / "a.zarr")
    for path in ("/web/view.js", "/api/heatmaps/a/state", "/api/heatmaps/a/cells/0/0/0/0"):
        first = web.get(path)
        again = web.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_a_missing_slide_leaves_the_heatmap_alone(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored / "a.zarr", tmp_path / "a.zarr")
    web = client(tmp_path / "a.zarr")
    facts = web.get("/api/heatmaps/a").json()
    assert not facts["slide"]["present"]
    assert facts["slide"]["size_l0"] == [900, 700]
    assert web.get("/api/heatmaps/a/slide/9/0/0").status_code == 200
    assert web.get("/api/heatmaps/a/thumbnail").status_code == 200
    # once it is given, under whatever name, it is there
    renamed = tmp_path / "renamed.tif"
    shutil.copy(scored / "a.tif", renamed)
    facts = client(tmp_path / "a.zarr", slides=[renamed]).get("/api/heatmaps/a").json()
    assert facts["slide"]["present"]
    assert facts["slide"]["warning"] is None


def test_another_slide_is_refused_unless_forced(scored: Path, tmp_path: Path) -> None:
    other = fiducial_slide(tmp_path / "b.tif", width=600, height=400, mpp=0.972)
    with pytest.raises(StoreError, match=r"b\.tif is not the slide.*--force"):
        Catalogue([scored / "a.zarr"], slides=[other])
    web = client(scored / "a.zarr", slides=[other], force=True)
    assert "is not the slide" in web.get("/api/heatmaps/a").json()["slide"]["warning"]
    # one that only has the right name is passed over in silence: nobody gave it
    shutil.copytree(scored / "a.zarr", tmp_path / "a.zarr")
    shutil.copy(other, tmp_path / "a.tif")
    assert not client(tmp_path / "a.zarr").get("/api/heatmaps/a").json()["slide"]["present"]


def test_a_store_that_is_overwritten_is_read_anew(tmp_path: Path) -> None:
    values = np.full((4, 5), 0.25, np.float32)
    stored_heatmap(tmp_path / "h.zarr", values)
    web = client(tmp_path / "h.zarr")
    first = web.get("/api/heatmaps/h/cells/0/0/0/0")
    shutil.rmtree(tmp_path / "h.zarr")
    for _ in range(2):  # not as it was, however often one asks
        gone = web.get("/api/heatmaps/h/state")
        assert (gone.status_code, "does not exist" in gone.json()["error"]) == (503, True)
    stored_heatmap(tmp_path / "h.zarr", values * 2, size_l0=Size(5 * 128, 4 * 128))
    second = web.get("/api/heatmaps/h/cells/0/0/0/0")
    assert np.frombuffer(first.content, "<f4", 20).max() == 0.25
    assert np.frombuffer(second.content, "<f4", 20).max() == 0.5


def test_a_cohort_lists_everything(tmp_path: Path) -> None:
    values = np.full((4, 5), 0.25, np.float32)
    stored_heatmap(tmp_path / "a.zarr", values, name="<img src=x>.tif")
    stored_heatmap(tmp_path / "a b.zarr", values)
    (tmp_path / "damaged.zarr").mkdir()
    (tmp_path / "damaged.zarr" / "zarr.json").write_text("{}")
    (tmp_path / ".hidden.zarr.partial").mkdir()
    write_run(
        tmp_path,
        "made",
        [
            SlideResult(slide="a.tif", state="done", output="a.zarr", highest=0.25, positive=3),
            SlideResult(slide="b.svs", state="failed", error="b.svs is empty"),
            SlideResult(
                slide="made.tif", state="failed", output="a b.zarr", error="of a later run"
            ),
        ],
        total=2,
    )
    web = client(tmp_path)
    assert web.get("/").headers["location"] == "index"
    rows = {
        (row["slide"], row["state"]): row for row in web.get("/api/heatmaps").json()["heatmaps"]
    }
    assert rows["<img src=x>.tif", "complete"]["positive"] == 3
    assert rows["made.tif", "complete"]["key"] == "a-b"
    assert rows["made.tif", "complete"]["highest"] == 0.25
    assert "damaged" in str(rows["damaged", "unreadable"])
    assert rows["b.svs", "failed"]["error"] == "b.svs is empty"
    assert len(rows) == 4
    # a run that goes on adds more
    stored_heatmap(tmp_path / "later.zarr", values)
    assert "later" in [row["key"] for row in web.get("/api/heatmaps").json()["heatmaps"]]
    assert web.get("/api/heatmaps/later/state").status_code == 200


def test_heatmaps_of_one_slide_can_be_compared(tmp_path: Path) -> None:
    values = np.full((4, 5), 0.25, np.float32)
    for folder, name in (("x", "1"), ("y", "1"), ("z", "2")):
        stored_heatmap(tmp_path / folder / "heat.zarr", values, quickhash=name)
    web = client(*(tmp_path / folder / "heat.zarr" for folder in "xyz"))
    others = [other["key"] for other in web.get("/api/heatmaps/heat").json()["comparable"]]
    assert others == ["heat-2"]
    for folder, classes in (("u", "ab"), ("v", "bac"), ("w", "abc")):  # but not of other classes
        some = np.full((4, 5, len(classes)), 1 / len(classes), np.float32)
        stored_heatmap(tmp_path / folder / "heat.zarr", some, classes=tuple(classes))
    web = client(*(tmp_path / folder / "heat.zarr" for folder in "uvw"))
    others = [other["key"] for other in web.get("/api/heatmaps/heat-2").json()["comparable"]]
    assert others == ["heat-3"]


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("")
    for name, message in (
        ("missing", "does not exist"),
        ("empty", "holds no heatmaps"),
        ("text", "is not a heatmap"),
    ):
        with pytest.raises(StoreError, match=message):
            Catalogue([tmp_path / name])
    stored_heatmap(tmp_path / "h.zarr", np.full((4, 5), 0.25, np.float32))
    with pytest.raises(SlideOpenError, match="does not exist"):
        Catalogue([tmp_path / "h.zarr"], slides=[tmp_path / "missing.tif"])
    with pytest.raises(HistoslideError, match="--port must lie"):
        ServeOptions(port=70000)
    with pytest.raises(HistoslideError, match="--token"):
        ServeOptions(token="a/b")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["view", str(tmp_path / "h.zarr"), "--no-browser", "--port", port]) == 2


def test_the_command_prints_the_address_and_ends_on_interrupt(tmp_path: Path) -> None:
    stored_heatmap(tmp_path / "h.zarr", np.full((4, 5), 0.25, np.float32))
    code = "from histoslide_cli.main import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "view", str(tmp_path / "h.zarr"), "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{16})/", url)
        assert found, url + process.stderr.read()
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        connection.request("GET", f"/{found[2]}/api/heatmaps/h/state")
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert answer["cells"] == 20
        for path in ("/web/../../server.py", "/web/%2e%2e%2fserver.py", "//etc/passwd", "/../.."):
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
            connection.putrequest("GET", f"/{found[2]}{path}", skip_host=True)
            connection.putheader("Host", "127.0.0.1")
            connection.endheaders()
            assert connection.getresponse().status == 404
            connection.close()
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=60) as endless:
            answer = b"cut off"
            with suppress(ConnectionError):  # while it is still being sent
                endless.sendall(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"y" * 2**22)
                answer = endless.recv(4096)
            assert answer == b"cut off" or b" 400 " in answer
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        said = process.stderr.read().replace("WARNING:  Invalid HTTP request received.\n", "")
        assert said == ""


def test_two_heatmaps_of_one_slide_begin_as_a_comparison(tmp_path: Path) -> None:
    probability = np.zeros((4, 5), dtype=np.float32)
    for name, quickhash in (("a", "one"), ("b", "one"), ("c", "other")):
        stored_heatmap(tmp_path / f"{name}.zarr", probability, quickhash=quickhash)
    a, b, c = (tmp_path / f"{name}.zarr" for name in "abc")
    for paths, begins in (
        ([a, b], "view#heat=a&with=b"),
        ([a, c], ""),
        ([a], ""),
        ([a, a], ""),
        ([tmp_path], ""),
    ):
        with Catalogue(paths) as catalogue:
            assert catalogue.first_view == begins

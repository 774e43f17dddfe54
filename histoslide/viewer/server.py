"""The server behind the page: it answers reads of what the catalogue holds, and nothing else.

The one thing that it changes is the review, where one is made, and only for the page itself.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from histoslide.errors import HistoslideError, OutlineError, ReviewChangedError
from histoslide.storage.records import from_json, to_builtins
from histoslide.viewer.cache import byte_cache
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.deepzoom import DeepZoom, blank_tile, slide_tile
from histoslide.viewer.facts import (
    colour_maps,
    describe_cohort,
    describe_heatmap,
    thumbnail,
)
from histoslide.viewer.foci import (
    FociSettingsError,
    asked_settings,
    describe_foci,
    recorded_settings,
)
from histoslide.viewer.messages import ReviewAnswer, ReviewChange
from histoslide.viewer.reviews import Reviews

logger = logging.getLogger(__name__)

HOSTS = ("127.0.0.1", "localhost")
"""Names under which the page may be asked for. Any other is a stranger's name that was pointed at
this machine to get around the browser's same-origin rule."""

CACHE_BYTES = 256 * 2**20
"""Bound on the encoded tiles kept for all pages together."""

THREADS = 4
"""Tiles in work at a time; each thread holds a handle of each slide that it reads."""

MAX_BODY = 16 * 2**20
"""Bytes of a change of a review at most."""

MAX_ADDRESS = 1000
"""Longest path that is looked at, in characters; the page's own have about a hundred."""

_OPENSEADRAGON_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
"""The one inline style that OpenSeadragon adds to a page; it hides an outline on touch screens."""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' '{_OPENSEADRAGON_STYLE}'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

_FOREVER = "private, max-age=86400"
_ASK_AGAIN = "no-cache"


def create_app(
    catalogue: Catalogue, *, token: str = "", reviews: Reviews | None = None
) -> Starlette:
    """The web application.

    Args:
        catalogue: what may be seen.
        token: a word that every address must begin with, which other users of this machine
            cannot guess; empty for none.
        reviews: where reviews go; None for a page on which nothing can be changed.
    """
    viewer = _Viewer(catalogue, reviews)
    routes: list[BaseRoute] = viewer.routes()
    if token:
        routes = [Mount(f"/{token}", routes=routes)]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        catalogue.close()

    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False),
        ],
        exception_handlers={
            HistoslideError: _say_error,
            HTTPException: _say_error,
            Exception: _say_bug,
        },
        lifespan=lifespan,
    )


class _SafeHeaders:
    """Bounds addresses, and puts the security headers on every response, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        if len(scope.get("path", "")) > MAX_ADDRESS:
            too_long = JSONResponse({"error": "the address is too long"}, status_code=414)
            await too_long(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


class _Viewer:
    """What is answered to each address."""

    def __init__(self, catalogue: Catalogue, reviews: Reviews | None) -> None:
        self._catalogue, self._reviews = catalogue, reviews
        self._tile = byte_cache(CACHE_BYTES)
        self._finding = anyio.CapacityLimiter(1)

    def routes(self) -> list[BaseRoute]:
        """The addresses; every variable part is looked up, none becomes a path of a file."""
        heat = "/api/heatmaps/{key}"
        changing: list[BaseRoute] = []
        if self._reviews is not None:
            changing = [
                Route(f"{heat}/review", self._review, methods=["GET"]),
                Route(f"{heat}/review", self._change_review, methods=["POST"]),
            ]
        return [
            *changing,
            Route("/", self._start),
            Route("/index", _page("index.html")),
            Route("/view", _page("view.html")),
            Route("/web/{name}", self._web_file),
            Route("/api/colour-maps", self._colour_maps),
            Route("/api/heatmaps", self._cohort),
            Route(heat, self._heatmap),
            Route(f"{heat}/state", self._state),
            Route(f"{heat}/foci/{{channel:int}}", self._foci),
            Route(f"{heat}/thumbnail", self._thumbnail),
            Route(heat + "/cells/{channel:int}/{level:int}/{row:int}/{col:int}", self._cells),
            Route(heat + "/slide/{level:int}/{col:int}/{row:int}", self._slide_tile),
        ]

    def _start(self, request: Request) -> Response:
        target = "index" if self._catalogue.is_cohort else "view"
        return RedirectResponse(target if request.url.path.endswith("/") else f"./{target}")

    def _web_file(self, request: Request) -> Response:
        found = web_files().get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        body, media_type = found
        return _cached(request, body, media_type)

    def _colour_maps(self, _: Request) -> Response:
        return JSONResponse(colour_maps())

    def _cohort(self, _: Request) -> Response:
        return _json(describe_cohort(self._catalogue, self._reviews))

    def _heatmap(self, request: Request) -> Response:
        return self._answer(
            request, lambda key: describe_heatmap(self._catalogue, key, self._reviews)
        )

    def _state(self, request: Request) -> Response:
        return self._answer(request, lambda key: self._catalogue.source(key).state())

    def _review(self, request: Request) -> Response:
        assert self._reviews is not None
        describe = self._reviews.describe
        return self._answer(request, lambda key: describe(self._catalogue.source(key).heat))

    async def _change_review(self, request: Request) -> Response:
        """The one address that changes something, and only for the page itself."""
        _refuse_strangers(request)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise HTTPException(413, "the outline is too long")
        return await run_in_threadpool(self._changed, request.path_params["key"], bytes(body))

    def _changed(self, key: str, body: bytes) -> Response:
        assert self._reviews is not None
        try:
            heat = self._catalogue.source(key).heat
        except KeyError:
            raise HTTPException(404, "no such heatmap") from None
        try:
            change = from_json(body, ReviewChange, source="the change", error=_SenselessError)
            answer = ReviewAnswer(object=self._reviews.change(heat, change))
        except ReviewChangedError as error:
            now = self._reviews.find(heat, change.id)
            return _json(ReviewAnswer(object=now, error=str(error)), status=409)
        except (_SenselessError, OutlineError) as error:
            return _json(ReviewAnswer(object=None, error=str(error)), status=422)
        return _json(answer)

    def _answer(self, request: Request, describe: Callable[[str], object]) -> Response:
        try:
            found = describe(request.path_params["key"])
        except KeyError:
            raise HTTPException(404, "no such heatmap") from None
        return _cached(request, bytes(_json(found).body), "application/json")

    def _thumbnail(self, request: Request) -> Response:
        key = request.path_params["key"]
        try:
            source = self._catalogue.source(key)
            state, slide = source.state(), self._catalogue.slide(key)
        except KeyError:
            raise HTTPException(404, "no such heatmap") from None
        body = self._tile(("thumbnail", key, state.revision), lambda: thumbnail(source.heat, slide))
        return _cached(request, body, "image/png")

    async def _foci(self, request: Request) -> Response:
        """Found one list after the other, so that whoever moves a slider leaves room for tiles."""
        return await anyio.to_thread.run_sync(self._found, request, limiter=self._finding)

    def _found(self, request: Request) -> Response:
        key, channel = request.path_params["key"], request.path_params["channel"]
        try:
            source = self._catalogue.source(key)
            revision, heat = source.state().revision, source.heat
            recorded, tables = recorded_settings(heat, heat.shown_classes[channel])
            settings = asked_settings(recorded, request.query_params.multi_items())
            body = self._tile(
                ("foci", key, revision, channel, settings, recorded, tables),
                lambda: bytes(_json(describe_foci(heat, settings, recorded, tables)).body),
            )
        except (KeyError, IndexError):
            raise HTTPException(404, "no such heatmap or class") from None
        except FociSettingsError as error:
            raise HTTPException(422, str(error)) from None
        return _cached(request, body, "application/json")

    def _cells(self, request: Request) -> Response:
        path = request.path_params
        try:
            source = self._catalogue.source(path["key"])
            where = (path["level"], path["row"], path["col"], path["channel"])
            revision = source.state().revision
            body = self._tile(
                ("cells", path["key"], revision, where),
                lambda: gzip.compress(source.tile(*where), compresslevel=1),
            )
        except (KeyError, IndexError):
            raise HTTPException(404, "no such tile") from None
        headers = {"content-encoding": "gzip", "x-revision": revision}
        return _cached(request, body, "application/octet-stream", headers)

    def _slide_tile(self, request: Request) -> Response:
        path = request.path_params
        key, where = path["key"], (path["level"], path["col"], path["row"])
        try:
            slide = self._catalogue.slide(key)
            if slide is None:
                zoom = DeepZoom(size_l0=self._catalogue.source(key).grid.size_l0)
                body = blank_tile(zoom, *where)
            else:
                zoom = DeepZoom(size_l0=slide.size_l0)
                body = self._tile(
                    ("slide", slide.quickhash, where), lambda: slide_tile(slide, zoom, *where)
                )
        except (KeyError, IndexError):
            raise HTTPException(404, "no such tile") from None
        # The page puts the slide's hash into the address, so what is there never changes.
        return Response(body, media_type="image/jpeg", headers={"cache-control": _FOREVER})


@cache
def web_files() -> dict[str, tuple[bytes, str]]:
    """The page's own files by name, with their media types; all are in memory."""
    found: dict[str, tuple[bytes, str]] = {}
    folder = files("histoslide.viewer").joinpath("web")
    for part in (folder, folder.joinpath("third_party")):
        for file in part.iterdir():
            suffix = f".{file.name.rpartition('.')[2]}"
            if file.is_file() and suffix in _MEDIA_TYPES:
                found[file.name] = (file.read_bytes(), _MEDIA_TYPES[suffix])
    return found


def _page(name: str) -> Callable[[Request], Response]:
    def respond(request: Request) -> Response:
        return _cached(request, *web_files()[name])

    return respond


def _json(message: object, *, status: int = 200) -> JSONResponse:
    """A message to the page."""
    return JSONResponse(to_builtins(message), status_code=status)


class _SenselessError(HistoslideError):
    """What was sent is no change of a review."""


def _refuse_strangers(request: Request) -> None:
    """Make sure that a request comes from the page itself, not from another one in the browser.

    Browsers tell the origin of every request that may change something, and ask before they send
    JSON to a stranger, which nothing here allows. The host was looked at before.

    Raises:
        HTTPException: 403 or 415.
    """
    mine = f"http://{request.headers['host']}"
    if request.headers.get("origin") != mine:
        raise HTTPException(403, "only the page itself may change a review")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "only the page itself may change a review")
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415, "a change is JSON")


def _cached(
    request: Request, body: bytes, media_type: str, headers: dict[str, str] | None = None
) -> Response:
    """A response that costs next to nothing when the browser already has it."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    known = (headers or {}) | {"etag": tag, "cache-control": _ASK_AGAIN}
    if request.headers.get("if-none-match") == tag:
        known.pop("content-encoding", None)
        return Response(status_code=304, headers=known)
    return Response(body, media_type=media_type, headers=known)


def _say_error(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, status_code=error.status_code)
    logger.warning("%s", error)
    return JSONResponse({"error": str(error)}, status_code=503)


def _say_bug(_: Request, error: Exception) -> Response:
    """What the page shows of a bug; its traceback goes to the terminal."""
    return JSONResponse({"error": f"unexpected: {type(error).__name__}"}, status_code=500)

"""Binding a port of this machine alone, and serving until interrupted."""

from __future__ import annotations

import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import uvicorn

from histoslide.errors import HistoslideError
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.reviews import Reviews
from histoslide.viewer.server import create_app

HOST = "127.0.0.1"
"""The loopback address: no other machine can connect."""

_CLOSE_S = 2
"""Seconds that open connections get when the server ends."""


_HEAD_BYTES = 64 * 2**10
"""Most bytes of a request's first line and headers; browsers send a few thousand."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the page is served."""

    port: int = 0
    """TCP port; 0 for any that is free."""
    token: str | None = None
    """First part of every address, so that other users of this machine cannot look; None makes a
    new one at every start."""
    browser: bool = True
    """Whether to open the page."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise HistoslideError(f"--port must lie in 0-65535, not {self.port}")
        if self.token is not None and not (
            self.token.isascii() and self.token.replace("-", "").replace("_", "").isalnum()
        ):
            raise HistoslideError(
                f"--token {self.token!r} must be letters, digits, dashes and underscores"
            )


def serve(
    catalogue: Catalogue,
    options: ServeOptions,
    on_ready: Callable[[str], None],
    *,
    reviews: Reviews | None = None,
) -> None:
    """Serve until interrupted (Ctrl-C).

    Args:
        catalogue: what may be seen.
        options: how.
        on_ready: called with the page's address once it answers.
        reviews: where reviews go; None for a page on which nothing can be changed.

    Raises:
        HistoslideError: the port is taken, or another viewer writes the same reviews.
    """
    token = secrets.token_urlsafe(12) if options.token is None else options.token
    with (
        nullcontext() if reviews is None else reviews.held(),
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, options.port))
        except OSError as error:
            raise HistoslideError(
                f"port {options.port} cannot be used: {error.strerror}; choose another --port"
            ) from error
        listener.listen()  # from here on a browser may connect; it is answered as soon as we run
        url = f"http://{HOST}:{listener.getsockname()[1]}/{token}/{catalogue.first_view}"
        config = uvicorn.Config(
            create_app(catalogue, token=token, reviews=reviews),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_S,
            ws="none",
            http="h11",  # the one of uvicorn's that bounds what it holds of a request
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        on_ready(url)
        if options.browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            return  # the usual way to end it

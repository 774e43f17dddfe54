"""A real S3 protocol server on loopback, and what its clients need to know."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from histoslide.storage.location import Location, file_system, is_remote, object_key, parse_location

BUCKET = "slides"


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with one empty bucket; credentials are in the environment."""
    server_module = pytest.importorskip("moto.server", reason="needs the extra dev: moto")
    s3fs = pytest.importorskip("s3fs", reason="needs the extra s3")
    server: Any = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server.start()
    _, port = server.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", "the-key-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        file_system = s3fs.S3FileSystem(skip_instance_cache=True)
        file_system.call_s3("create_bucket", Bucket=BUCKET)
        try:
            yield address
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()


def intercept(patch: pytest.MonkeyPatch, before: Callable[[str, dict[str, Any]], None]) -> None:
    """Have a function called with method and options before every request to a server."""
    from fsspec.asyn import sync_wrapper
    from s3fs import S3FileSystem

    call = S3FileSystem._call_s3

    async def watched(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        before(method, options)
        return await call(self, method, *arguments, **options)

    patch.setattr(S3FileSystem, "_call_s3", watched)
    patch.setattr(S3FileSystem, "call_s3", sync_wrapper(watched))


def contents(path: Location) -> dict[str, bytes | str]:
    """Every object or file of a store by its key; of root metadata everything but the times."""
    found: dict[str, bytes | str] = {}
    start = f"{path}/"
    files: list[Location]
    if is_remote(path):
        files = [parse_location(f"s3://{key}") for key in file_system(path).find(object_key(path))]
    else:
        files = [file for file in path.rglob("*") if file.is_file()]
    for file in sorted(files, key=str):
        key = str(file).removeprefix(start)
        if key in ("zarr.json", ".zattrs"):
            document = json.loads(file.read_bytes())
            facts = document.get("attributes", document)["histoslide"]
            facts.pop("seconds"), facts.pop("command")
            found[key] = json.dumps(document)
        else:
            found[key] = file.read_bytes()
    return found

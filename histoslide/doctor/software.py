"""Checks of what is installed: libraries, extras, the slide formats, the model that ships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from histoslide.doctor.findings import Finding

REQUIRED = ("histoslide", "torch", "torchvision", "openslide-python", "zarr", "dask", "numpy")
"""Distributions without which nothing is scored."""

MENTIONED = ("openslide-bin", "tifffile", "imagecodecs", "fastai", "openvino", "distributed")
"""Distributions whose versions matter where they are there."""

_IMPORTED: Mapping[str, str] = {
    "torch": "torch",
    "torchvision": "torchvision",
    "openslide": "openslide-python openslide-bin",
    "zarr": "zarr",
    "dask.array": "dask",
}
"""Modules that must not only be installed but load, since they bring libraries of their own, and
the distributions to install again where they do not."""


def check_libraries() -> Iterator[Finding]:
    """Versions of the libraries that matter, and whether they load."""
    import importlib

    versions = {name: _version(name) for name in (*REQUIRED, *MENTIONED)}
    for name in REQUIRED:
        if versions[name] is None:
            yield Finding(
                name=name, state="problem", text="is not installed", remedy=f"pip install {name}"
            )
    for module, distributions in _IMPORTED.items():
        if versions[distributions.split()[0]] is None:
            continue  # said above
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:  # OSError: a shared library is missing
            yield Finding(
                name=module,
                state="problem",
                text=f"cannot be loaded: {(str(error).splitlines() or [''])[0]}",
                remedy=f"install it again: pip install --force-reinstall {distributions}",
            )
    there = [f"{name} {number}" for name, number in versions.items() if number]
    yield Finding(name="libraries", state="ok", text=", ".join(there), facts={"versions": versions})


def check_extras() -> Iterator[Finding]:
    """Optional parts of histoslide, as its own metadata list them."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in requires("histoslide") or ()]
    names = metadata("histoslide").get_all("Provides-Extra") or ()
    for extra in sorted(set(names) - {"dev", "docs"}):
        parts = [
            requirement.name
            for requirement in wanted
            if requirement.marker
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
        ]
        missing = [name for name in parts if _version(name) is None]
        yield Finding(
            name=f"extra {extra}",
            state="ok",
            text=f"not installed ({', '.join(missing)})" if missing else "installed",
            remedy=f'pip install "histoslide[{extra}]"' if missing else None,
            facts={"extra": extra, "missing": missing},
        )


def check_formats() -> Iterator[Finding]:
    """The library that opens slide files."""
    import openslide

    yield Finding(
        name="slide formats",
        state="ok",
        text=f"OpenSlide {openslide.__library_version__}",
        facts={"openslide": openslide.__library_version__},
    )


def check_bundle() -> Iterator[Finding]:
    """The model that ships: readable, and the weights it was written with."""
    from histoslide.errors import BundleError
    from histoslide.model import default_bundle, load_bundle

    try:
        spec, _ = load_bundle(default_bundle())
    except BundleError as error:
        yield Finding(
            name="default model",
            state="problem",
            text=str(error),
            remedy="install histoslide again, or pass --model with another bundle",
        )
        return
    yield Finding(
        name="default model",
        state="ok",
        text=f"{spec.name}, {spec.architecture}, whole",
        facts={"name": spec.name, "architecture": spec.architecture},
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

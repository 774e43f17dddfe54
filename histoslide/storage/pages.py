"""Pages from templates: what comes from files is escaped, and what is missing fails."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_templates(package: str, folder: str = "templates") -> Environment:
    """The templates of a package.

    Args:
        package: its name.
        folder: within it.
    """
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

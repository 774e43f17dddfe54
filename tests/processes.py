"""The processes that read slides, as tests count them."""

import psutil


def reading_processes() -> list[psutil.Process]:
    """Children of this process that read slides or wait to."""
    return [p for p in psutil.Process().children() if "isolated.process" in " ".join(p.cmdline())]

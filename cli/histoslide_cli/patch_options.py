"""The options that say which labelled patches a command works on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histoslide.datasets import PatchFolder


def add_patch_options(
    group: argparse._ActionsContainer, *, extra: str, slides: str, skip_bad: str
) -> None:
    """``--layout``, ``--extra``, ``--slides`` and ``--skip-bad``.

    Args:
        group: to add them to.
        extra: what the command does with further folders.
        slides: what the command uses slides for.
        skip_bad: what it takes for bad.
    """
    group.add_argument(
        "--layout",
        choices=("pcam-hdf5", "kaggle", "folders"),
        help="of the data (default: recognised)",
    )
    group.add_argument(
        "--extra",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help=f"further folder per class{extra}; may be repeated",
    )
    group.add_argument(
        "--slides", type=Path, metavar="FILE", help=f"CSV with the columns name,slide{slides}"
    )
    group.add_argument("--skip-bad", action="store_true", help=f"leave out {skip_bad}")


def add_part_option(parser: argparse.ArgumentParser) -> None:
    """``--part`` of the commands that judge."""
    parser.add_argument(
        "--part",
        choices=("train", "valid", "test", "all"),
        help="which part of the data (default: valid where the data have one, else all)",
    )


def patch_folder(
    arguments: argparse.Namespace, *, patch_px: int | None, cache: Path | None = None
) -> PatchFolder:
    """What ``DATA`` and these options say.

    Args:
        arguments: of the command.
        patch_px: side that every patch must have, None for any.
        cache: folder for unpacked files and for what reading has shown, None for the user's.
    """
    from histoslide.datasets import PatchFolder

    return PatchFolder(
        root=arguments.data,
        layout=arguments.layout,
        extra=tuple(arguments.extra),
        slides=arguments.slides,
        skip_bad=arguments.skip_bad,
        patch_px=patch_px,
        cache=cache,
    )

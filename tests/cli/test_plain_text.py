"""What files are called cannot command the terminal."""

import logging
from pathlib import Path

import pytest
from histoslide_cli.console import set_up_logging
from histoslide_cli.main import main
from histoslide_cli.plain_text import plain

from histoslide.synthetic import fiducial_slide

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b1m"


def test_control_characters_are_spelled_out() -> None:
    assert plain(EVIL) == r"\x1b]0;owned\x07\x1b[2J\x9b1m"
    assert plain("µm ÷4 → ä\tb\nc") == "µm ÷4 → ä\tb\nc"
    assert plain("a\u202egpj.exe") == r"a\u202egpj.exe"
    assert plain("over\rwritten") == r"over\rwritten"


def test_names_of_slides_are_printed_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fiducial_slide(tmp_path / f"{EVIL}.tif", width=300, height=300, mpp=0.5)
    assert main(["info", str(path)]) == 0
    assert main(["info", str(tmp_path / f"{EVIL}-missing.tif")]) == 2
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert r"\x1b]0;owned" in text
        assert "\x1b" not in text
        assert "\x9b" not in text


def test_warnings_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(quiet=False, verbose=False)
    logging.getLogger("histoslide.test").warning("%s", EVIL)
    assert "\x1b" not in capsys.readouterr().err

"""Cells that spreadsheets would run are text, numbers stay numbers, and names come back."""

import csv
import io

import pytest

from histoslide.storage.tables import TableWriter, original_cell, safe_cell


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_become_text(cell: str) -> None:
    assert safe_cell(cell) == f"'{cell}"
    assert original_cell(f"'{cell}") == cell


@pytest.mark.parametrize(
    "cell", ["-0.5", "+1", "-1e-9", "-inf", -0.5, 3, None, True, "a=b", "", "'a"]
)
def test_all_else_stays(cell: object) -> None:
    assert safe_cell(cell) is cell
    if isinstance(cell, str):
        assert original_cell(cell) == cell


def test_rows_by_position_and_by_name() -> None:
    file = io.StringIO()
    table = TableWriter(file, lineterminator="\n")
    table.write([["=slide", -1.5]])
    table.write_named(["a", "b"], [{"b": "-2", "a": "@x", "other": 1}, {"a": 1}])
    rows = list(csv.reader(io.StringIO(file.getvalue())))
    assert rows == [["'=slide", "-1.5"], ["a", "b"], ["'@x", "-2"], ["1", ""]]

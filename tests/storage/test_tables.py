"""Cells that spreadsheets would run are text, numbers stay numbers, and names come back."""

import csv
import io
from pathlib import Path

import pytest

from histoslide.errors import DataError
from histoslide.storage.tables import TableWriter, original_cell, read_table, safe_cell


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


def test_tables_are_read_with_plain_cells_and_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('slide, mpp\n a.tif ,0.5\n"b\n.tif"\nc.tif,1,beyond\n', encoding="utf-8-sig")
    columns, rows = read_table(path, error=DataError)
    assert columns == ["slide", "mpp"]
    assert [(row.line, dict(row.cells)) for row in rows] == [
        (2, {"slide": "a.tif", "mpp": "0.5"}),
        (4, {"slide": "b\n.tif"}),
        (5, {"slide": "c.tif", "mpp": "1"}),
    ]
    path.write_bytes(b"slide\n\xff\n")
    with pytest.raises(DataError, match=r"t\.csv cannot be read"):
        read_table(path, error=DataError)
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        read_table(tmp_path / "none.csv", error=DataError)

"""Cells: where they lie (``cells``), their fate (``status``), their pixels (``windows``)."""

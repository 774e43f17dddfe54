"""A labelled array that draws itself as the slide lies: the first row on top.

Imported only where xarray is there.
"""

from __future__ import annotations

from typing import Any

import xarray as xr
from xarray.plot.accessor import DataArrayPlotAccessor


class UprightPlot(DataArrayPlotAccessor):
    """``array.plot()`` with the first row on top, which xarray draws at the bottom."""

    def __call__(self, **options: Any) -> Any:  # type: ignore[override]
        """Draw; for the options see ``xarray.DataArray.plot``."""
        if self._da.ndim == 2:
            options = {"yincrease": False} | options
        return super().__call__(**options)


class UprightArray(xr.DataArray):  # type: ignore[no-untyped-call]
    """What ``Heatmap.to_xarray`` gives; what is calculated from it may be a plain array again."""

    __slots__ = ()

    @property
    def plot(self) -> UprightPlot:  # type: ignore[override]
        """Draws it."""
        return UprightPlot(self)

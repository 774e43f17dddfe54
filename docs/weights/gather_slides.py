"""Gathers what heatmaps of the five nodes show: OUT.json HEATMAP [HEATMAP ...].

For the model cards. A lesion counts from 0.2 mm on, as micrometastases do.
"""

import json
import sys
from pathlib import Path

import numpy as np

from histoslide.lesions import find_lesions
from histoslide.lesions.lesion import ISOLATED_UM
from histoslide.store import open_heatmap

out, *paths = map(Path, sys.argv[1:])
rows = []
for path in paths:
    heat = open_heatmap(path)
    report = find_lesions(heat)
    values, _ = heat.cells(heat.tumour_class)
    scored = values[np.isfinite(values)]
    lengths = [lesion.longest_diameter_um for lesion in report.lesions]
    rows.append(
        {
            "slide": heat.record.slide.name,
            "mpp": heat.grid.slide_mpp.value,
            "model_sha256": heat.record.model.sha256,
            "cells": len(scored),
            "at_half": int((scored >= 0.5).sum()),
            "tissue_mm2": report.summary.tissue_area_mm2,
            "lesions": len(lengths),
            "lesions_above_200_um": sum(length > ISOLATED_UM for length in lengths),
            "longest_um": max(lengths, default=0.0),
            "slide_score": report.summary.slide_score,
        }
    )
out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

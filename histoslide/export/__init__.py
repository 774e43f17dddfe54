"""Heatmaps in the formats of other programs; one module a format, each from the store alone."""

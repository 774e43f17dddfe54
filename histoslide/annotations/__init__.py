"""Polygons drawn on slides: ``polygons`` are the values, one module reads each format."""

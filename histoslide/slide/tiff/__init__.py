"""TIFF slides read from their own segments: the pages that are levels, and what is left."""

"""TIFF slides read from their own tiles: which pages are levels, where tiles lie, what is left."""

"""Tissue tiles of a slide as files: pictures or PCam's HDF5 layout, with a manifest."""

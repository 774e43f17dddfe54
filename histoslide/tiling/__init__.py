"""Tissue tiles of slides: as files, pictures or PCam's HDF5 layout, and as a torch dataset."""

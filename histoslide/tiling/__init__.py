"""Tissue tiles of slides as files or as a torch dataset; labelled patches of annotated slides."""

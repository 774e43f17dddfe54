"""Patches that heatmaps got wrong, for training again.

``reference`` knows what is true of a slide, ``wrong`` finds the cells that are not as they should
be, ``spreading`` chooses some that look unlike each other, ``mine`` tells the story and writes.
"""

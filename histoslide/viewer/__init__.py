"""A local web page that pans and zooms over slides with their heatmaps on top.

``catalogue`` knows which heatmaps and slides may be seen, ``deepzoom`` and ``cells`` cut them into
tiles, ``server`` answers the page's requests, ``serving`` binds the port. The page itself, plain
JavaScript modules on OpenSeadragon, lies in ``web/``.
"""

"""A report of heatmaps as one HTML file that needs nothing else.

``quality`` judges the slide's picture, ``pictures`` draws, ``contents`` gathers what is said of a
slide, ``page`` fills the template.
"""

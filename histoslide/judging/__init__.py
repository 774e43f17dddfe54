"""Heatmaps judged against what people say of the slides: lesions, slides and patients.

``reference`` is what people say, ``slide`` compares one heatmap with it, ``cohort`` all of them,
``assessment`` makes figures of that and ``page`` a report. ``choice`` finds lesion settings.
"""

"""How good a model is on slides: FROC, slide scores, and patients' stages.

What a heatmap says comes in as points and numbers; ``histoslide.judging`` takes them out of
heatmaps and references and tells the whole story.
"""

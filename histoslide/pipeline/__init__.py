"""The story: what happens to a slide from its file to its heatmap and picture.

Many slides are the work of ``histoslide.cohort.run``, which takes the same steps;
``histoslide.tiling.slide`` cuts a slide into tiles instead.
"""

from histoslide.pipeline.options import ScoreOptions, TissueOptions
from histoslide.pipeline.outputs_beside import OutputsBeside
from histoslide.pipeline.preparation import PreparedSlide, prepare_slide
from histoslide.pipeline.score import Progress, finish_slide, score_slide, store_slide

__all__ = [
    "OutputsBeside",
    "PreparedSlide",
    "Progress",
    "ScoreOptions",
    "TissueOptions",
    "finish_slide",
    "prepare_slide",
    "score_slide",
    "store_slide",
]

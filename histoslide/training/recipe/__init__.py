"""A recipe: every choice of a training run as one value that the bundle records."""

from histoslide.training.recipe.augmentation import Augmentation
from histoslide.training.recipe.named import RECIPES, fine_tune_stages
from histoslide.training.recipe.recipe import LARGEST_DRIFT, MONITORS, PRECISIONS, Recipe
from histoslide.training.recipe.stage import GROUPS, Stage

__all__ = [
    "GROUPS",
    "LARGEST_DRIFT",
    "MONITORS",
    "PRECISIONS",
    "RECIPES",
    "Augmentation",
    "Recipe",
    "Stage",
    "fine_tune_stages",
]

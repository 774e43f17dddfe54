"""What the parts of a bundle's record are called where people read them."""

from __future__ import annotations

_WORDS = {
    "auc": "AUC",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
    "ema_decay": "decay of averages",
    "imagenet": "from ImageNet",
    "mpp": "µm/px",
}


def in_words(key: str) -> str:
    """A key of the record as a person would say it."""
    return _WORDS.get(key, key.replace("_", " "))

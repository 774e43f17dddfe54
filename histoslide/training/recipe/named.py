"""The recipes that have a name."""

from __future__ import annotations

from collections.abc import Mapping

from histoslide.training.recipe.augmentation import Augmentation
from histoslide.training.recipe.recipe import Recipe
from histoslide.training.recipe.stage import Stage


def fine_tune_stages(
    epochs: int, *, base_lr: float = 2e-3, freeze_epochs: int = 1, lr_mult: float = 100
) -> tuple[Stage, Stage]:
    """The two stages of fastai's ``Learner.fine_tune`` with the same arguments."""
    frozen = (base_lr / 10, base_lr / 10, base_lr)  # what fastai makes of slice(base_lr)
    half = base_lr / 2
    return (
        Stage(epochs=freeze_epochs, lr=frozen, trainable_groups=1, pct_start=0.99),
        Stage(epochs=epochs, lr=(half / lr_mult, half), pct_start=0.3, div=5.0),
    )


RECIPES: Mapping[str, Recipe] = {
    "pcam": Recipe(
        name="pcam",
        # pct_start, the final rate and 3e-3 with a tenth for the body, epsilon, and that one of the
        # eight symmetries is always drawn: the defaults of fastai 1.0, which the notebook ran with.
        stages=(
            Stage(
                epochs=5,
                lr=(3e-4, 3e-4, 3e-3),
                trainable_groups=1,
                pct_start=0.3,
                div_final=2.5e5,
            ),
            Stage(epochs=2, lr=(1e-6, 1e-5), pct_start=0.3, div_final=2.5e5),
        ),
        epsilon=1e-8,
        network_px=224,
        augmentation=Augmentation(
            flip=True,
            flip_vert=True,
            p_flip=1.0,
            max_rotate=45,
            max_zoom=1.15,
            p_affine=0.5,
            max_lighting=0.5,
            p_lighting=0.5,
        ),
    ),
    "colorectal": Recipe(
        name="colorectal",
        stages=(
            Stage(epochs=3, lr=1e-3, trainable_groups=1),
            Stage(epochs=5, lr=(1e-5, 1e-3)),
        ),
        valid_fraction=0.2,
        decay_norms=False,
        precision="mixed",
        monitor="accuracy",
        presize_px=460,
        network_px=224,
        augmentation=Augmentation(
            flip=True,
            max_rotate=10,
            max_zoom=1.1,
            max_warp=0.2,
            max_lighting=0.2,
            min_scale=0.75,
        ),
        input_px=150,
        label_px=150,
        mpp=0.495,
    ),
    "fine-tune": Recipe(
        name="fine-tune",
        stages=fine_tune_stages(5),
        decay_norms=False,
        augmentation=Augmentation(
            flip=True,
            flip_vert=True,
            max_rotate=45,
            max_zoom=1.1,
            max_lighting=0.2,
            stain=0.1,
        ),
    ),
    "pcam-robust": Recipe(
        name="pcam-robust",
        architecture="timm/tf_efficientnet_lite0",
        stages=(Stage(epochs=5, lr=1e-3, pct_start=0.2, div_final=1e3),),
        ema_decay=0.998,
        augmentation=Augmentation(
            flip=True,
            flip_vert=True,
            p_flip=1.0,
            max_rotate=45,
            min_zoom=0.8,
            max_zoom=1.25,
            zoom_centred=True,
            p_affine=0.8,
            hue=18.0,
            saturation=0.4,
            brightness=0.2,
            stain=0.15,
            blur=1.2,
            p_blur=0.3,
            jpeg=0.3,
        ),
    ),
    "from-scratch": Recipe(
        name="from-scratch",
        imagenet=False,
        stages=(
            Stage(epochs=4, lr=1e-3, crop_px=48),
            Stage(epochs=3, lr=7e-4, crop_px=64),
            # All of the network, of which the first layers have seen small crops only; see the
            # model card for what the two ways brought.
            Stage(epochs=4, lr=6e-4, mosaic=0.5, pct_start=0.15, div=10.0, div_final=1e3),
            Stage(epochs=4, lr=6e-4, mosaic=0.25, pct_start=0.15, div=10.0, div_final=1e3),
        ),
        weight_decay=0.05,
        label_smoothing=0.02,
        ema_decay=0.99,
        augmentation=Augmentation(
            flip=True,
            flip_vert=True,
            p_flip=1.0,
            min_zoom=0.9,
            max_zoom=1.12,
            zoom_centred=True,
            p_affine=1.0,
            max_lighting=0.2,
            stain=0.2,
            sharpness=0.5,
            jpeg=0.2,
        ),
    ),
}
"""``pcam`` and ``colorectal`` are what their names say, from ImageNet weights; ``fine-tune`` is
fastai's default way for patches of one's own; ``pcam-robust`` is for slides of other laboratories
and for light networks; ``from-scratch`` needs no ImageNet weights."""

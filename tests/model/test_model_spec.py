"""The spec refuses what cannot be, with the value in its message, and survives a trip as JSON."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histoslide.errors import BundleError
from histoslide.model.spec import PCAM_INPUT_PX, PCAM_LABEL_PX, PCAM_MPP, SPEC_VERSION, ModelSpec


def make_spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "name": "tiny",
        "architecture": "resnet18",
        "classes": ("normal", "tumour"),
        "tumour_class": "tumour",
        "input_px": PCAM_INPUT_PX,
        "label_px": PCAM_LABEL_PX,
        "mpp": PCAM_MPP,
    }
    return ModelSpec(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("alone",), "tumour_class": None}, "['alone']"),
        ({"classes": (), "tumour_class": None}, "[]"),
        ({"classes": ("twice", "twice"), "tumour_class": None}, "['twice', 'twice']"),
        ({"tumour_class": "metastasis"}, "'metastasis'"),
        ({"label_px": 0}, "label_px 0"),
        ({"label_px": -3}, "label_px -3"),
        ({"label_px": 97}, "label_px 97"),
        ({"input_px": 31}, "(31)"),
        ({"network_px": 31}, "network_px 31"),
        ({"mpp": 0.0}, "mpp must be a positive number, not 0.0"),
        ({"mpp": -0.5}, "-0.5"),
        ({"mpp": math.nan}, "mpp must be a positive number, not nan"),
        ({"mpp": math.inf}, "mpp must be a positive number, not inf"),
        ({"temperature": 0.0}, "temperature must be a positive number, not 0.0"),
        ({"temperature": -1.5}, "-1.5"),
        ({"temperature": math.nan}, "nan"),
        ({"mean": (0.5, 0.25)}, "mean must be three finite numbers, not (0.5, 0.25)"),
        ({"mean": (0.5, math.inf, 0.5)}, "inf"),
        ({"std": (0.5, 0.25)}, "std must be three finite numbers, not (0.5, 0.25)"),
        ({"std": (0.2, math.nan, 0.2)}, "nan"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be positive, not (0.2, 0.0, 0.2)"),
        ({"std": (0.2, -0.25, 0.2)}, "-0.25"),
    ],
)
def test_an_impossible_value_is_refused_with_the_value(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError) as caught:
        make_spec(**changes)
    assert said in str(caught.value)
    assert "'tiny'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_limits_themselves_are_allowed() -> None:
    spec = make_spec(label_px=96, network_px=32)
    assert (spec.label_px, spec.input_px, spec.network_px) == (96, 96, 32)
    assert make_spec(label_px=1).label_px == 1


@pytest.mark.parametrize("name", ["input_px", "label_px", "mpp"])
def test_of_tile_and_resolution_nothing_is_guessed(name: str) -> None:
    fields = dataclasses.asdict(make_spec())
    del fields[name]
    with pytest.raises(TypeError, match=name):
        ModelSpec(**fields)
    text = json.dumps(fields | {"spec_version": SPEC_VERSION})
    with pytest.raises(BundleError, match=name):
        ModelSpec.from_json(text)


def test_defaults() -> None:
    spec = make_spec(input_px=224)
    assert spec.network_px == 224, "not resized"
    assert spec.temperature == 1
    assert (PCAM_INPUT_PX, PCAM_LABEL_PX, PCAM_MPP) == (96, 32, 0.972)


def test_tumour_index() -> None:
    assert make_spec().tumour_index == 1
    assert make_spec(classes=("tumour", "normal")).tumour_index == 0
    assert make_spec(tumour_class=None).tumour_index is None


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_spec().mpp = 0.5  # type: ignore[misc]


positive = st.floats(min_value=1e-6, max_value=1e6)
triple = st.tuples(positive, positive, positive)


@settings(max_examples=40, deadline=None)
@given(
    name=st.text(),
    classes=st.lists(st.text(), min_size=2, max_size=5, unique=True),
    which=st.none() | st.integers(0, 1),
    sides=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    network_px=st.integers(32, 512),
    mpp=positive,
    temperature=positive,
    mean=st.tuples(*[st.floats(-10, 10)] * 3),
    std=triple,
    training=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
)
def test_json_round_trip(
    name: str,
    classes: list[str],
    which: int | None,
    sides: tuple[int, int],
    network_px: int,
    mpp: float,
    temperature: float,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    training: dict[str, Any],
) -> None:
    spec = ModelSpec(
        name=name,
        architecture="resnet34",
        classes=tuple(classes),
        tumour_class=None if which is None else classes[which],
        label_px=min(sides),
        input_px=max(sides),
        network_px=network_px,
        mpp=mpp,
        temperature=temperature,
        mean=mean,
        std=std,
        licence="Apache-2.0",
        training=training,
    )
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert isinstance(again.classes, tuple)
    assert isinstance(again.mean, tuple)
    assert isinstance(again.std, tuple)
    assert again.to_json() == spec.to_json()


def test_equal_specs_are_equal_texts() -> None:
    one = make_spec(training={"b": 1, "a": 2})
    other = make_spec(training={"a": 2, "b": 1})
    assert one.to_json() == other.to_json()


def nested(levels: int) -> Any:
    content: Any = 1
    for _ in range(levels):
        content = [content]
    return content


def altered(**changes: Any) -> str:
    fields = json.loads(make_spec().to_json()) | changes
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{not json", "is not JSON"),
        ("", "not JSON"),
        ("[1, 2]", "`array`"),
        ("null", "`null`"),
        (altered(spec_version=SPEC_VERSION + 1), f"version {SPEC_VERSION + 1}"),
        ("{}", "version None"),
        (altered(colour="red", age=3), "`$.colour` is unknown"),
        (altered(mpp="wide"), "$.mpp"),
        (altered(mpp=True), "$.mpp"),
        (altered(classes=3), "$.classes"),
        (altered(mpp=-2.5), "-2.5"),
        (altered(temperature=None), "$.temperature"),
        (altered(std=[1, 2]), "$.std"),
        (altered(std=[1, 2, float("nan")]), "three finite numbers"),
        (altered(classes=["a", ["b"]]), "$.classes[1]"),
        (altered(input_px=96.5), "$.input_px"),
        (altered(training=[1]), "$.training"),
        (altered(training={"epochs": 3}), "training cannot be read"),
        (altered(training={"epochs": [3]}), "$.epochs[0]"),
        (altered(training={"validation": "good"}), "$.validation"),
        (altered(training={"deep": nested(70)}), "nested too deeply"),
        ('{"spec_version": ' + "[" * 100_000, "nested too deeply"),
        ('{"spec_version": ' + "9" * 5_000 + "}", "not JSON"),
        (altered(spec_version=["x" * 1000]), "has version ['xxxx"),
    ],
)
def test_json_that_is_no_spec_is_refused(text: str, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        ModelSpec.from_json(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["name", "architecture", "classes"])
def test_a_missing_field_is_named(name: str) -> None:
    fields = json.loads(make_spec().to_json())
    del fields[name]
    with pytest.raises(BundleError, match=f"missing.*`{name}`"):
        ModelSpec.from_json(json.dumps(fields))

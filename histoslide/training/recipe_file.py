"""Recipes from TOML or JSON files, and changes to them from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histoslide.errors import DataError, HistoslideError, reason
from histoslide.storage.records import from_builtins, from_json, from_toml
from histoslide.training.recipe import RECIPES, Augmentation, Recipe, Stage

_NAMES = {Recipe: "the recipe", Stage: "a stage", Augmentation: "augmentation"}
"""What the tables of a recipe are called."""


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a file.

    A file holds the fields of ``Recipe``, with ``[augmentation]`` and ``[[stages]]`` as tables.
    With ``base = "NAME"`` it need only hold what differs from that recipe; stages are replaced as
    a whole.

    Args:
        name: a key of ``RECIPES``, or a path that ends in .toml or .json.

    Raises:
        DataError: no such recipe, a file that cannot be read, an unknown field or a bad value.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix not in {".toml", ".json"}:
        raise DataError(
            f"there is no recipe {name!r}: choose from {', '.join(RECIPES)}, or name a .toml file"
        )
    values = _read(path)
    base = values.pop("base", None)
    if base is not None and (not isinstance(base, str) or base not in RECIPES):
        raise DataError(f"{path}: there is no recipe {base!r}: choose from {', '.join(RECIPES)}")
    if base is None and not values.get("stages"):
        raise DataError(
            f'{path} names no stages: add [[stages]], or base = "{next(iter(RECIPES))}"'
        )
    values.setdefault("name", path.stem)
    start = RECIPES[base] if base is not None else Recipe(name=path.stem, stages=(Stage(epochs=1),))
    try:
        return change_recipe(start, values)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # a NUL in a name is no OSError
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    read = from_toml if path.suffix == ".toml" else from_json
    return read(raw, dict[str, Any], source=path, error=DataError)


def change_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with some of its values replaced.

    Args:
        recipe: to start from; it is left as it is.
        values: by field, as TOML and JSON have them; a table under ``augmentation`` changes those
            of its fields that it names, a list under ``stages`` replaces all stages.

    Raises:
        DataError: an unknown field or a bad value.
    """
    changes = dict(values)
    if "augmentation" in changes:
        known = recipe.as_dict()["augmentation"]
        changes["augmentation"] = known | _table(changes["augmentation"], Augmentation)
    if "stages" in changes:
        if not isinstance(changes["stages"], list) or not changes["stages"]:
            raise DataError("stages must be a list of one or more tables")
        changes["stages"] = [_stage(stage) for stage in changes["stages"]]
    whole = recipe.as_dict() | _table(changes, Recipe)
    return from_builtins(whole, Recipe, source="the recipe", error=DataError)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """What ``--set KEY=VALUE`` options say, with dots for tables and TOML for values.

    Raises:
        DataError: no ``=``, or a value that is not TOML.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        parsed = _parse(f"{key} = {value}") or _parse(f'{key} = "{value}"')  # a bare word is text
        if parsed is None or not equals or not value:
            raise DataError(f"--set {setting} is not KEY=VALUE, for example augmentation.stain=0.1")
        _merge(values, parsed)
    return values


def _parse(text: str) -> dict[str, Any] | None:
    try:
        return from_toml(text, dict[str, Any], source="--set")
    except HistoslideError:
        return None


def _stage(values: object) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or "epochs" not in values:
        raise DataError("each of the stages must be a table with epochs and lr")
    return _table(values, Stage)


def _table(values: object, kind: type[Recipe | Stage | Augmentation]) -> dict[str, Any]:
    """A table that names nothing but fields of a kind."""
    what = _NAMES[kind]
    if not isinstance(values, Mapping):
        raise DataError(f"{what} must be a table, not {values!r}")
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        raise DataError(f"{what} has no {', '.join(map(repr, unknown))}: it has {', '.join(known)}")
    return dict(values)


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value

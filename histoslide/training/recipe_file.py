"""Recipes from TOML or JSON files, and changes to them from the command line."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from histoslide.errors import DataError
from histoslide.training.recipe import RECIPES, Augmentation, Recipe, Stage

T = TypeVar("T", Recipe, Stage, Augmentation)


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
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a recipe: {error}") from error
    base = values.pop("base", None)
    if base is not None and base not in RECIPES:
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


def change_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with some of its values replaced.

    Args:
        recipe: to start from; it is left as it is.
        values: by field; a table under ``augmentation`` changes those of its fields that it names,
            a list under ``stages`` replaces all stages.

    Raises:
        DataError: an unknown field or a bad value.
    """
    changes = dict(values)
    if "augmentation" in changes:
        changes["augmentation"] = _replace(
            recipe.augmentation, changes["augmentation"], "augmentation"
        )
    if "stages" in changes:
        if not isinstance(changes["stages"], list) or not changes["stages"]:
            raise DataError("stages must be a list of one or more tables")
        changes["stages"] = tuple(_stage(stage) for stage in changes["stages"])
    return _replace(recipe, changes, "the recipe")


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """What ``--set KEY=VALUE`` options say, with dots for tables and TOML for values.

    Raises:
        DataError: no ``=``, or a value that is not TOML.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        try:
            parsed = tomllib.loads(f"{key} = {value}") if equals and value else None
        except tomllib.TOMLDecodeError:
            try:  # a bare word is meant as text
                parsed = tomllib.loads(f'{key} = "{value}"')
            except tomllib.TOMLDecodeError:
                parsed = None
        if parsed is None:
            raise DataError(f"--set {setting} is not KEY=VALUE, for example augmentation.stain=0.1")
        _merge(values, parsed)
    return values


def _stage(values: object) -> Stage:
    if not isinstance(values, Mapping) or "epochs" not in values:
        raise DataError("each of the stages must be a table with epochs and lr")
    return _replace(Stage(epochs=1), values, "a stage")


def _replace(start: T, values: Any, what: str) -> T:
    if not isinstance(values, Mapping):
        raise DataError(f"{what} must be a table, not {values!r}")
    known = [field.name for field in dataclasses.fields(start)]
    if unknown := sorted(set(values) - set(known)):
        raise DataError(f"{what} has no {', '.join(map(repr, unknown))}: it has {', '.join(known)}")
    try:
        return dataclasses.replace(start, **values)
    except TypeError as error:
        raise DataError(f"{what} has a value of the wrong kind: {error}") from error


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value

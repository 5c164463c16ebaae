"""`--config FILE`, `--recipe NAME`: options of `lnpjax train`, under those of the command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lnpjax._base.checks import require
from lnpjax._base.configs import decode, nearest, read_settings
from lnpjax.models import LlamaConfig, ViTConfig
from lnpjax.models.presets import PRESETS
from lnpjax.pretraining import ModelOptions, PretrainConfig
from lnpjax.pretraining.config import CLASSIFIERS, RECIPES, SIZES, ModelConfig
from lnpjax.pretraining.config.networks import (
    kind_of_model,
    num_outputs_of,
    sample_shape_of,
)
from lnpjax.pretraining.config.own import OwnConfig
from lnpjax.pretraining.folders import DESCRIPTIVE

Command = TypeVar("Command")


def named(arguments: Sequence[str], option: str) -> str | None:
    """Return what follows an option in a command line.

    Example:
        >>> named(["--steps", "5", "--config=mine.yaml"], "--config")
        'mine.yaml'
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(option, dest="value")
    try:
        return parser.parse_known_args(list(arguments))[0].value
    except argparse.ArgumentError:  # nothing follows, which the command itself refuses
        return None


def options_before(kind: type[Command], file: Path | None, recipe: str | None) -> Command:
    """Return a command as a file and a recipe set it, before its command line; the file wins.

    Args:
        kind: the command, whose fields are sections of options.
        file: as for `options_of_file`, or None. It may name the recipe.
        recipe: its name, or None.

    Returns:
        The command; what neither says is as by default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, names an unknown option, a value is of another type, or there
            is no such recipe.
    """
    values = {} if file is None else _values_of_file(kind, file)
    source = "--recipe" if file is None else str(file)
    name: Any = values.get("recipe") if recipe is None else recipe
    if name is not None:
        expected = f"one of {', '.join(RECIPES)}"
        known = isinstance(name, str) and name in RECIPES
        require(known, "recipe", expected=expected, got=repr(name))
        sections = RECIPES[name]
        for section, options in sections.items():
            given = values.get(section, {})
            whole = isinstance(given, Mapping)  # else it is refused below
            values[section] = {**options, **given} if whole else given
        values["recipe"] = name
    return decode(kind, values, source=source)


def options_of_file(kind: type[Command], file: Path) -> Command:
    """Read the options of a command, whose fields are sections of options.

    Args:
        kind: the command.
        file: JSON or YAML: options by name, in their sections or without them, or the `config.json`
            of a run, which gives the options that make the same run again.

    Returns:
        The command; what the file does not say is as by default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, names an unknown option, or a value is of another type.
    """
    return options_before(kind, file, None)


def _values_of_file(kind: type, file: Path) -> dict[str, Any]:
    """Return the options of a file in their sections."""
    values = read_settings(file)
    if "lnpjax_version" in values:
        return _options_of_run(values, str(file))
    return _in_sections(kind, values, str(file))


def _in_sections(kind: type, values: Mapping[Any, Any], source: str) -> dict[str, Any]:
    """Put options that stand alone into their sections; refuse other names."""
    section_of = {
        option.name: section.name
        for section in dataclasses.fields(kind)
        if section.default_factory is not dataclasses.MISSING
        for option in dataclasses.fields(section.default_factory)  # type: ignore[arg-type]
    }
    sections = {*section_of.values(), "recipe"}
    nested: dict[str, Any] = {}
    for key, value in values.items():
        name = _option_name(key)
        hint = nearest(name, [*section_of, *sections])
        known = name in section_of or name in sections
        require(known, source, expected=f"options of lnpjax train{hint}", got=key)
        if isinstance(value, Mapping) and name in sections:
            nested.setdefault(name, {}).update({_option_name(k): v for k, v in value.items()})
        elif name in section_of:
            nested.setdefault(section_of[name], {})[name] = value
        elif value is not None:  # a section without options is None in YAML
            nested[name] = value
    return nested


def _option_name(key: Any) -> str:
    return str(key).replace("-", "_")


def _options_of_run(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the options whose run has this configuration."""
    known = {name: value for name, value in values.items() if name not in DESCRIPTIVE["run"]}
    if isinstance(known.get("data"), Mapping):
        data = known["data"].items()
        known["data"] = {name: value for name, value in data if name not in DESCRIPTIVE["data"]}
    config = PretrainConfig.from_json(known, source=source, refuse_unknown=True)
    options = config.to_json()
    length = config.data.context_length
    if config.data.classifies:
        options["data"].pop("context_length")  # which is None, and no option of the task
    options["model"] = dataclasses.asdict(_model_options(config.model, length, source))
    return options


def _model_options(model: ModelConfig, context_length: int | None, source: str) -> ModelOptions:
    """Return the options of a model, with the preset that needs the fewest changes."""
    expected = "a model that the options of lnpjax train make"
    own = isinstance(model, OwnConfig)
    got = "one of a file, which only --model FILE.py:FUNCTION names"
    require(not own, f"{source}: model", expected=expected, got=got)
    candidates = []
    for name, base in _presets_of(model).items():
        sizes = [size for size in SIZES if hasattr(model, size)]
        changes = {
            size: getattr(model, size)
            for size in sizes
            if getattr(model, size) != getattr(base, size, None)
        }
        options = ModelOptions(preset=name, **_other_options(model), **changes)
        try:
            made = options.resolve(
                vocab_size=num_outputs_of(model),
                context_length=context_length,
                sample_shape=sample_shape_of(model) or (),
            )
        except ValueError:  # the sizes do not fit to the width of this preset's heads
            continue
        if made == model:
            candidates.append((len(changes), options))
    got = "one with other settings (is a size, or rope_base, changed by hand?)"
    require(bool(candidates), f"{source}: model", expected=expected, got=got)
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _presets_of(model: ModelConfig) -> Mapping[Any, Any]:
    """Return the sizes of a network by name; of one without names, none without a name."""
    if isinstance(model, LlamaConfig):
        return PRESETS
    return CLASSIFIERS if isinstance(model, ViTConfig) else {None: None}


def _other_options(model: ModelConfig) -> dict[str, Any]:
    """Return the options of a network that are not sizes."""
    if isinstance(model, LlamaConfig):
        return {"tie_embeddings": model.tie_embeddings, "dtype": model.dtype}
    kind = kind_of_model(model)
    if isinstance(model, ViTConfig):
        return {"model": kind, "patch_size": model.patch_size, "dtype": model.dtype}
    return {"model": kind}

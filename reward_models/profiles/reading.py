"""From a profile's YAML to one whole `ProfileFile`: with what it takes from others, and complete.

    base: pocket       # a reward that the file states replaces the base's as a whole
    extends: pocket    # graphs, rewards and variants are added; those of the same name are replaced; or plugin:NAME

Each file is checked by itself, so that a message names the file and the key, and a path in it is relative to it.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from sync_r1.reward_models.cards import BUILT_IN_REWARDS
from sync_r1.reward_models.errors import nearest_first
from sync_r1.reward_models.profiles.files import ProfileFile, RewardFile
from sync_r1.reward_models.profiles.own_variant_files import JudgeVariantFile
from sync_r1.reward_models.profiles.plugins import PREFIX, plugin_names, plugin_path
from sync_r1.reward_models.types import ProfileError

_BUILT_IN = Path(__file__).parent


def profile_path(name_or_path: str, folder: Path = Path()) -> Path:
    """The file of a built-in profile by its name ("pocket"), of an installed one ("plugin:NAME"), or a path relative to
    `folder`. Raises ProfileError.
    """
    if name_or_path.startswith(PREFIX):
        return plugin_path(name_or_path.removeprefix(PREFIX))
    built_in = _BUILT_IN / f"{name_or_path}.yaml"
    path = built_in if built_in.is_file() else folder / name_or_path
    if not path.is_file():
        names = nearest_first(name_or_path, [*(file.stem for file in _BUILT_IN.glob("*.yaml")), *plugin_names()])
        raise ProfileError(f"there is no profile {name_or_path!r}: neither the file {path} nor one of {names}")
    return path


def read_profile(path: Path) -> tuple[ProfileFile, frozenset[str]]:
    """The file with all that it takes from others, and the graphs that it states itself.

    Raises ProfileError: one sentence with file and key.
    """
    own = _checked(path)
    file = _whole(own, (path,))
    if not file.rewards:
        raise ProfileError(f"profile {path}: rewards: expected at least one reward, got none")
    known = list(BUILT_IN_REWARDS)
    # The order is that of the ports of `sync-r1 up`, so it does not depend on how a file is sorted.
    names = sorted(file.rewards, key=lambda name: known.index(name) if name in known else len(known))
    rewards = {name: _complete(path, name, file.rewards[name]) for name in names}
    return file.model_copy(update={"rewards": rewards}), frozenset(own.graphs)


def own_files(path: Path) -> tuple[Path, ...]:
    """The file, those that it extends as far as they are neither built in nor installed, and the judges of all.

    Raises ProfileError.
    """
    files, _ = _extended_files(path)
    rewards = [reward for file in files for reward in _checked(file).rewards.values()]
    variants = [variant for reward in rewards for variant in reward.variants.values()]
    return (*files, *(variant.judge for variant in variants if isinstance(variant, JudgeVariantFile)))


def installed_files(path: Path) -> tuple[Path, ...]:
    """The files that it extends from the first installed one on (`plugins.py`). Raises ProfileError."""
    return _extended_files(path)[1]


def _extended_files(path: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """(own, installed) files of a chain of `extends`, without the built-in ones."""
    own, installed = [path], list[Path]()
    last = path
    while name := _checked(last).extends:
        last = profile_path(name, last.parent)
        if last.parent == _BUILT_IN:
            break
        (installed if installed or name.startswith(PREFIX) else own).append(last)
    return tuple(own), tuple(installed)


def _whole(own: ProfileFile, chain: tuple[Path, ...]) -> ProfileFile:
    """`own` and what it takes from others; `chain`: the files that lead to it, the one asked for first, itself last."""
    key, path = "base" if own.base else "extends", chain[-1]
    if not (own.base or own.extends):
        return own
    try:
        other = _base_path(own.base) if own.base else profile_path(own.extends, path.parent)
    except ProfileError as error:
        raise ProfileError(f"profile {path}: {key}: {error}") from None
    if other.resolve() in [one.resolve() for one in chain]:
        names = " → ".join(one.name for one in (*chain, other))
        raise ProfileError(f"profile {path}: {key}: {names} leads back to itself; one of them has to stand alone")
    under = _whole(_checked(other), (*chain, other))
    rewards = under.rewards | own.rewards if own.base else _extended(under.rewards, own.rewards)
    return own.model_copy(update={"graphs": under.graphs | own.graphs, "rewards": rewards})


def _checked(path: Path) -> ProfileFile:
    """What stands in this one file."""
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f"profile {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ProfileError(f"profile {path}: expected a mapping with `name` and `rewards`, got {type(raw).__name__}")
    try:
        return ProfileFile.model_validate(raw, context={"folder": path.parent})
    except ValidationError as error:
        raise ProfileError(f"profile {path}: {_sentence(error)}") from None


def _base_path(name: str) -> Path:
    path = _BUILT_IN / f"{name}.yaml"
    if not path.is_file():
        names = nearest_first(name, (file.stem for file in _BUILT_IN.glob("*.yaml")))
        raise ProfileError(
            f"there is no built-in profile {name!r} to be its `base`, there are {names}; a file is taken by `extends`"
        )
    return path


def _extended(under: dict[str, RewardFile], own: dict[str, RewardFile]) -> dict[str, RewardFile]:
    rewards = dict(under)
    for name, reward in own.items():
        below = under.get(name, RewardFile())
        added = {
            "judges": reward.judges or below.judges,
            "default": reward.default or below.default,
            "variants": below.variants | reward.variants,
        }
        rewards[name] = reward.model_copy(update=added)
    return rewards


def _complete(path: Path, name: str, reward: RewardFile) -> RewardFile:
    """The reward with all that it leaves to its name. Raises ProfileError for what nobody says."""
    judges, where = reward.judges or BUILT_IN_REWARDS.get(name), f"profile {path}: rewards.{name}"
    if judges is None:
        raise ProfileError(
            f"{where}: `judges` is missing: `picture` or `answer`, the part of a trajectory that it is credit for "
            f"(only {', '.join(BUILT_IN_REWARDS)} have one by their name)"
        )
    if reward.default not in reward.variants:
        variants = nearest_first(reward.default, reward.variants)
        came = f"{reward.default!r} is none of the variants" if reward.default else "is missing; the variants are"
        raise ProfileError(f"{where}: `default` {came} {variants}")
    return reward.model_copy(update={"judges": judges})


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong, with its key."""
    first = error.errors(include_url=False)[0]
    loc = list(first["loc"])
    tag = {"rewards": 4, "graphs": 2}.get(str(loc[0]) if loc else "", len(loc))
    if loc[tag : tag + 1] != ["[key]"]:
        del loc[
            tag : tag + 1
        ]  # pydantic names the kind of a variant, and the origin of a graph, between it and its key
    unnamed = [] if loc[-1:] != ["[key]"] else loc[-2:]
    key = ".".join(str(part) for part in loc[: len(loc) - len(unnamed)])
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "union_tag_invalid":
        context = first["ctx"]
        kinds = nearest_first(str(context["tag"]), str(context["expected_tags"]).replace("'", "").split(", "))
        message = f"there is no kind {context['tag']!r}; there are {kinds}"
    elif first["type"] == "union_tag_not_found":
        message = "expected a mapping with a `kind`"
    elif first["type"] == "string_pattern_mismatch" and unnamed:
        message = f"{unnamed[0]!r} is no name here: expected {first['ctx']['pattern']}"
    elif first["type"] not in ("value_error", "missing", "graph_origin"):
        message += f", got {first['input']!r:.60}"
    return f"{key}: {message}" if key else message

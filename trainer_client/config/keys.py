"""Names of configuration keys that have changed, and the formats of a run's `config.json` that follow from them.

A configuration that somebody writes (YAML, `--set`) has to use today's names: `renamed_keys` finds the others, with
what they are called now. A run's `config.json` is a full dump that nobody should have to edit: `migrate` brings one of
an older format up to this one. Values are plain dictionaries, as YAML and JSON give them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from sync_r1.reward_models.errors import SyncR1Error

FORMAT = 3
"""Of the `config.json` that this version writes, under the key `format`; without that key it is 1."""

RENAMED: dict[int, dict[str, str]] = {
    2: {"sampling.share_of_r": "sampling.recall_share", "sampling.batch": "sampling.rollout_rows_max"},
}
"""By the format that first has the new name: old name -> new name, both with their section."""

SELECTOR_KEYS: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "dgs": frozenset(
        {
            "preview_at", "target_acceptance", "keep", "threshold", "group", "group_min", "group_max", "max_rounds",
            "weights", "learn_from_rejected", "min_correlation", "patience",
        }
    ),
    "dapo": frozenset({"max_rounds", "min_std"}),
    "pods": frozenset({"candidates"}),
}  # fmt: skip
"""By `selector.kind`, the keys of `selector` that formats 1 and 2 read for it; the others stood there at any value."""


class FormatError(SyncR1Error, ValueError):
    """A format that this version does not read; the message says which it reads."""


def renamed_keys(values: Mapping[str, Any]) -> dict[str, str]:
    """Old name -> today's name of every key in `values` that is called otherwise now."""
    names: dict[str, str] = {}
    for version in sorted(RENAMED):
        # A name that changes again leads on to the newest one.
        names = {old: RENAMED[version].get(new, new) for old, new in names.items()} | RENAMED[version]
    return {old: new for old, new in names.items() if _has(values, old)}


def migrate(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration in the newest format, without the key `format`; `values` stay as they are.

    Raises FormatError for a format of a later version, or none at all.
    """
    migrated = copy.deepcopy(dict(values))
    version = migrated.pop("format", 1)
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise FormatError(f"format {version!r}: expected 1 to {FORMAT}; a later version wrote it, so read it with that")
    for number in range(version + 1, FORMAT + 1):
        for old, new in RENAMED.get(number, {}).items():
            _rename(migrated, old, new)
        migrated = _STEPS.get(number, dict)(migrated)
    return migrated


def _without_other_selectors(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration `values` without keys of `selector` that its kind does not read; it means the same.

    From format 3 on only its own keys are there. `group: dynamic` once set the
    baseline whatever the kind was, so where it is dropped the objective says it.
    """
    kept, selector = dict(values), values.get("selector")
    own = SELECTOR_KEYS.get(selector.get("kind", "dgs")) if isinstance(selector, Mapping) else None
    if selector is None or own is None:
        return kept
    if "group" not in own and selector.get("group") == "dynamic":
        kept["objective"] = {**kept.get("objective", {}), "baseline": "leave_one_out"}
    kept["selector"] = {key: value for key, value in selector.items() if key == "kind" or key in own}
    return kept


_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {3: _without_other_selectors}
"""By format, what else brings a configuration of the format before up to it, once keys have their new names."""


def _has(values: Mapping[str, Any], key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _rename(values: dict[str, Any], old: str, new: str) -> None:
    """Move the value of `old`, if there is one, to `new`."""
    if not _has(values, old):
        return
    *sections, last = old.split(".")
    source = values
    for section in sections:
        source = source[section]
    value = source.pop(last)
    *sections, last = new.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
    target[last] = value

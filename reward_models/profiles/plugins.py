"""Profiles that installed distributions offer: entry points of the group `sync_r1.rewards`, named as `plugin:NAME`.

    [project.entry-points."sync_r1.rewards"]
    my-team = "my_team_rewards:profile.yaml"      # package, and the profile file in its folder

What is installed is read off its metadata. A profile is looked up when it is named, and no module of the distribution
is imported to find it.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from sync_r1.reward_models.errors import nearest_first
from sync_r1.reward_models.types import ProfileError

GROUP = "sync_r1.rewards"
PREFIX = "plugin:"
_VALUE = re.compile(r"(?P<package>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)\s*:\s*(?P<file>[\w-]+\.ya?ml)")


def plugin_names() -> list[str]:
    """Those that are installed, as a profile or an option names them."""
    return sorted({f"{PREFIX}{one.name}" for one in entry_points(group=GROUP)})


def plugin_path(name: str) -> Path:
    """The profile file of the plugin `name`, without the prefix.

    Raises ProfileError where none or several are installed, and where its file is not there.
    """
    installed = list(entry_points(group=GROUP))
    found = [one for one in installed if one.name == name]
    if not found:
        names = nearest_first(name, {one.name for one in installed})
        raise ProfileError(
            f"there is no plugin {name!r}; installed are {names}; a distribution offers one by an entry point of the "
            f"group {GROUP}"
        )
    if len(found) > 1:
        owners = " and ".join(sorted(map(_owner, found)))
        raise ProfileError(f"several distributions offer the plugin {name!r}: {owners}; uninstall all but one")
    return _file(found[0])


def _file(one: EntryPoint) -> Path:
    """The folder of the package is where its distribution put it; an editable one's is where Python finds it."""
    where = f"plugin {one.name!r} of {_owner(one)}"
    stated = _VALUE.fullmatch(one.value)
    if stated is None:
        raise ProfileError(
            f"{where}: its entry point is {one.value!r}; expected PACKAGE:FILE, the profile in the package's folder, "
            "as in 'my_rewards:profile.yaml'"
        )
    top, *below = stated["package"].split(".")
    places = [] if one.dist is None else [Path(str(one.dist.locate_file(top)))]
    files = [place.joinpath(*below, stated["file"]) for place in [*places, *_import_places(top)]]
    for file in files:
        if file.is_file():
            return file.resolve()
    raise ProfileError(
        f"{where}: there is no file {files[0] if files else stated['file']}; is {stated['file']!r} among the "
        f"`package-data` of {stated['package']}?"
    )


def _import_places(top: str) -> list[Path]:
    """The folders of a package. Finding one of the top level imports nothing."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return []
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]


def _owner(one: EntryPoint) -> str:
    return "an unknown distribution" if one.dist is None else f"{one.dist.metadata['Name']} {one.dist.version}"

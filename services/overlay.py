"""An overlay for Kubernetes that serves an own profile: what `sync-r1 overlay` writes, beside the project's manifests.

    DIR/kustomization.yaml           the overlay that it was made from, with the rewards of the profile
    DIR/REWARD/kustomization.yaml    one for each reward that the project's base does not have
    DIR/profile/                     the profile's files, which pods see as the folder /profile
    DIR/endpoints.json               for a trainer in the cluster (k8s/trainer)

Nothing of the project is changed, and the folder is its owner's: it may be edited and kept wherever it is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sync_r1.reward_models.errors import UserError
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.reward_models.profiles.plugins import PREFIX
from sync_r1.reward_models.profiles.reading import installed_files, own_files

_MOST_BYTES = 1_000_000
"""Of a ConfigMap, by etcd's limit of 1 MiB a value."""
_LONGEST_NAME = 63 - len("-reward-replicas")
"""Of a reward, so that its Services have names that DNS takes."""
_Yaml = dict[str, Any]


def write_overlay(profile: Path, source: Path, out: Path, files: Sequence[Path] = ()) -> list[str]:
    """Write the overlay that serves `profile` as the overlay `source` (k8s/overlays/NAME) serves its own; returns the
    names of its rewards. `files`: what the profile names beside profiles and modules.

    Raises ProfileError, and UserError for an `out` that exists, for files that fit into no ConfigMap and for a `source`
    without the project's base.
    """
    if str(profile).startswith(PREFIX):
        raise UserError(
            f"--profile takes a file here: write one that says `extends: {profile}`; the plugin belongs into the image"
        )
    loaded = load_profile(str(profile))
    rewards = list(loaded.rewards)
    if long := [name for name in rewards if len(name) > _LONGEST_NAME]:
        raise UserError(f"a reward's name may have {_LONGEST_NAME} characters on Kubernetes, got {', '.join(long)}")
    if out.exists():
        raise UserError(f"{out} is there already; give another folder, or remove it")
    mounted = _mounted([*own_files(profile), *_modules(loaded, installed_files(profile)), *files])
    overlay = _read(source / "kustomization.yaml")
    base = _base(source, overlay)
    known = {path.name for path in (base / "rewards").iterdir()}
    out.mkdir(parents=True)
    (out / "profile").mkdir()
    for file in mounted:
        shutil.copy(file, out / "profile" / file.name)
    own = [name for name in rewards if name not in known]
    for name in own:
        _write_reward(out / name, name, base)
    _relocate(overlay, source, out)
    overlay["resources"] += own
    overlay["components"].append(os.path.relpath(base.parent / "components" / "own-profile", out))
    _serve_profile(overlay, profile.name, [file.name for file in mounted])
    _set_rewards(overlay, own, sorted(known - set(rewards)))
    _write(out / "kustomization.yaml", overlay)
    endpoints = {name: f"dns:///{name}-reward-replicas:9001" for name in rewards}
    (out / "endpoints.json").write_text(json.dumps(endpoints, indent=2) + "\n")
    return rewards


def _modules(profile: Profile, installed: Sequence[Path]) -> list[Path]:
    """The files of own functions that lie beside their profile. Those of `installed` profiles are in the image."""
    folders = {file.resolve().parent for file in installed}
    functions = [graph.python for graph in profile.graphs.values() if graph.python is not None]
    sources = [function.sources for function in functions]
    beside = [one for one in sources if one.beside_profile and Path(one.root) not in folders]
    return [Path(source.file) for one in beside for source in one.modules.values()]


def _mounted(files: Sequence[Path]) -> list[Path]:
    """The files of the ConfigMap. Raises UserError for those that it cannot hold as the profile finds them."""
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is no file")
        if file.resolve().parent != files[0].resolve().parent:
            raise UserError(f"{file} does not lie beside {files[0]}: a ConfigMap has no folders, so put them together")
    if (size := sum(file.stat().st_size for file in set(files))) > _MOST_BYTES:
        raise UserError(
            f"the profile's files have {size:,} bytes, a ConfigMap holds {_MOST_BYTES:,}: graphs belong into a bundle "
            "(`sync-r1 bundle`), other large files into an image of yours"
        )
    return list(dict.fromkeys(files))


def _base(source: Path, overlay: _Yaml) -> Path:
    for resource in overlay.get("resources", []):
        if (source / resource / "reward").is_dir() and (source / resource / "rewards").is_dir():
            return (source / resource).resolve()
    raise UserError(f"{source} is no overlay of this project: none of its `resources` is the folder k8s/base")


def _write_reward(folder: Path, name: str, base: Path) -> None:
    """As the base does it for its own rewards."""
    example = sorted((base / "rewards").iterdir())[0]
    reward = _read(example / "kustomization.yaml")
    reward["namePrefix"] = f"{name}-"
    reward["resources"] = [os.path.relpath(base / "reward", folder)]
    reward["labels"][0]["pairs"] = {"app.kubernetes.io/name": name}
    folder.mkdir()
    _write(folder / "kustomization.yaml", reward)


def _relocate(overlay: _Yaml, source: Path, out: Path) -> None:
    """Folders are named from `out`; files, which must lie below it, are copied there."""
    for key in ("resources", "components"):
        kept = []
        for name in overlay.get(key, []):
            if (source / name).is_file():
                shutil.copy(source / name, out / Path(name).name)
                kept.append(Path(name).name)
            else:
                kept.append(os.path.relpath(source / name, out))
        overlay[key] = kept
    for patch in overlay.get("patches", []):
        if "path" in patch:
            shutil.copy(source / patch["path"], out / Path(patch["path"]).name)
            patch["path"] = Path(patch["path"]).name


def _serve_profile(overlay: _Yaml, profile: str, files: Sequence[str]) -> None:
    generators = overlay["configMapGenerator"]
    serving = next(one for one in generators if one["name"] == "serving")
    others = [literal for literal in serving["literals"] if not literal.startswith("PROFILE=")]
    serving["literals"] = [f"PROFILE=/profile/{profile}", *others]
    generators.append({"name": "profile", "files": [f"profile/{name}" for name in files]})


def _set_rewards(overlay: _Yaml, own: Sequence[str], absent: Sequence[str]) -> None:
    """What the overlay says reward by reward: replicas, names on certificates, and those that there are not."""
    patches = overlay.setdefault("patches", [])
    if replicas := overlay.get("replicas"):
        gone = {f"{name}-reward" for name in absent}
        count = replicas[0]["count"]
        kept = [one for one in replicas if one["name"] not in gone]
        overlay["replicas"] = kept + [{"name": f"{name}-reward", "count": count} for name in own]
    if any(Path(component).name == "mtls" for component in overlay["components"]):
        space = overlay["namespace"]
        hosts = [f"{name}-reward{which}{where}"
                 for name in own for where in ("", f".{space}.svc") for which in ("", "-replicas")]  # fmt: skip
        added = [{"op": "add", "path": "/spec/dnsNames/-", "value": host} for host in hosts]
        patches += [{"target": {"kind": "Certificate", "name": "reward-server"}, "patch": _dumped(added)}] * bool(added)
    for name in absent:
        delete = {"$patch": "delete", "apiVersion": "v1", "kind": "any", "metadata": {"name": "any"}}
        patches.append({"target": {"labelSelector": f"app.kubernetes.io/name={name}"}, "patch": _dumped(delete)})


def _read(file: Path) -> _Yaml:
    if not file.is_file():
        raise UserError(f"{file} is not there; --from takes an overlay of a checkout, such as k8s/overlays/cpu-pocket")
    content: _Yaml = yaml.safe_load(file.read_text())
    return content


def _dumped(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=120)


def _write(file: Path, content: _Yaml) -> None:
    file.write_text("# Written by `sync-r1 overlay`; yours to change.\n" + _dumped(content))

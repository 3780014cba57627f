"""`sync-r1 new-reward`: a small package with one reward, its card, a profile, a test and an entry point.

    DIR/pyproject.toml                        the entry point of `profiles/plugins.py`
    DIR/README.md
    DIR/src/PACKAGE_reward/profile.yaml       served as it is, installed or not
    DIR/src/PACKAGE_reward/…                  the function, the ONNX file or the judge's prompt
    DIR/tests/test_PACKAGE.py

It scores from the first moment on; its owner puts an own function, file or prompt in the place of the example.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from sync_r1.reward_models.errors import UserError
from sync_r1.reward_models.new_reward import texts
from sync_r1.reward_models.profiles.file_parts import RewardName

Kind = Literal["python", "graph", "judge"]
_NET = Path(__file__).parent / "brightness.onnx"
"""What the template of `GRAPH_MAKER` makes; so that a package with a graph needs no torch to be tried."""
_WHAT = {
    "python": "A function in Python: the mean of the picture's pixels, until you write another one into\n"
    "`src/${package}_reward/${package}_score.py`.",
    "graph": "An ONNX file: the mean of the picture's pixels, until you let\n"
    "`make_net.py` of this folder export another net.",
    "judge": "A prompt for a language model: `src/${package}_reward/${short}_judge.yaml`. `endpoints.yaml` says where\n"
    "the model is served.",
}


@dataclass(frozen=True)
class NewPackage:
    """What was written."""

    name: str
    """Of the reward, which the plugin has too."""
    profile: Path
    options: str = ""
    """Of `sync-r1 up`, beside its profile."""


def write_package(folder: Path, name: str, kind: Kind) -> NewPackage:
    """Write the package of the reward `name` into `folder`, which is made.

    Raises UserError for a folder that holds something, and for what is no reward's name.
    """
    name = _reward_name(name)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; give a folder that is, or one that is not there yet")
    package = name.replace("-", "_")
    inside = Path("src") / f"{package}_reward"
    options = f" --judges {folder / 'endpoints.yaml'}" if kind == "judge" else ""
    names = {"name": name, "package": package, "short": _short(package)}
    what = Template(_WHAT[kind]).substitute(names)
    files = _files(kind, package, inside) | {Path("pyproject.toml"): texts.PYPROJECT, Path("README.md"): texts.README}
    files[inside / "__init__.py"] = texts.INIT
    in_folder = " --judges endpoints.yaml" if kind == "judge" else ""
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        filled = Template(text).substitute(names, what=what, options=in_folder)
        (folder / file).write_text(filled)
    if kind == "graph":
        (folder / inside / "net.onnx").write_bytes(_NET.read_bytes())
    return NewPackage(name, folder / inside / "profile.yaml", options)


def _files(kind: Kind, package: str, inside: Path) -> dict[Path, str]:
    """Templates by their place."""
    test = Path("tests") / f"test_{package}.py"
    if kind == "python":
        return {
            inside / "profile.yaml": texts.PYTHON_PROFILE,
            inside / f"{package}_score.py": texts.PYTHON_MODULE,
            test: texts.PYTHON_TEST,
        }
    if kind == "graph":
        return {
            inside / "profile.yaml": texts.GRAPH_PROFILE,
            Path("make_net.py"): texts.GRAPH_MAKER,
            test: texts.GRAPH_TEST,
        }
    return {
        inside / "profile.yaml": texts.JUDGE_PROFILE,
        inside / f"{_short(package)}_judge.yaml": texts.JUDGE_PROMPT,
        Path("endpoints.yaml"): texts.JUDGE_ENDPOINTS,
        test: texts.JUDGE_TEST,
    }


def _short(package: str) -> str:
    """A graph has a name of at most 63 characters, a judge of 64."""
    return package[:50]


def _reward_name(name: str) -> str:
    """The name as profiles write it: a folder's "My_Reward" is "my-reward". Raises UserError."""
    written = re.sub(r"[ _.]+", "-", name.lower())
    try:
        return str(TypeAdapter(RewardName).validate_python(written))
    except ValidationError:
        raise UserError(
            f"{name!r} is no name of a reward: expected a letter, then letters, digits and hyphens, 63 at most, the "
            "last no hyphen; say another by --name"
        ) from None

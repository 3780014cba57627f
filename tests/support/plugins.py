"""Distributions that offer a profile, as pip leaves them in a folder of packages."""

from __future__ import annotations

from pathlib import Path

import yaml

RAN = "a module of the plugin ran"
SOURCE = f"""
from pathlib import Path
Path(__file__).with_name("ran").write_text({RAN!r})

def score(answer: str, prompt: str = "") -> float:
    return float(len(answer))
"""


def write_plugin(
    site: Path, name: str, *, distribution: str = "", value: str = "", keys: dict[str, object] | None = None
) -> Path:
    """A distribution whose plugin `name` is a profile with a reward of that name; its package's folder. Whatever is
    imported of it leaves a file `ran` there. `keys`: of the profile, in the place of its own.
    """
    distribution = distribution or f"{name}-rewards"
    package = distribution.replace("-", "_")
    folder, info = site / package, site / f"{package}-1.2.dist-info"
    folder.mkdir(parents=True)
    info.mkdir()
    (folder / "__init__.py").write_text(SOURCE)
    (folder / f"{package}_score.py").write_text(SOURCE)
    variant = {
        "kind": "python",
        "function": f"{package}_score:score",
        "card": {"summary": "length", "source": "s", "licence": "l"},
    }
    reward = {"judges": "answer", "default": "length", "variants": {"length": variant}}
    profile = {"name": name, "rewards": {name: reward}} | (keys or {})
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "RECORD").write_text("")
    (info / "entry_points.txt").write_text(f"[sync_r1.rewards]\n{name} = {value or package + ':profile.yaml'}\n")
    return folder

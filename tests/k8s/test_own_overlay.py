"""`sync-r1 overlay`: a profile's fifth and sixth reward on Kubernetes, without a change to any file of the project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from k8s_manifests import K8S, OVERLAYS, Manifest, fronts, named, of_kind
from k8s_policies import POLICIES
from kubernetes_validate import utils
from own_functions import write_profile as write_function_profile
from own_profile import ANSWERS, OWN, PICTURES, REWARDS, write_own_profile
from plugins import write_plugin
from typer.testing import CliRunner

from sync_r1.cli.main import app

ROOT = Path(__file__).parents[2]
NEWEST = max(set(utils.all_versions()), key=lambda version: [int(part) for part in version.split(".")])


def written(folder: Path, profile: Path, overlay: str = "cpu-pocket", *more: str) -> Path:
    out = folder / "overlay"
    arguments = ["--profile", str(profile), "--from", str(K8S / "overlays" / overlay), "--out", str(out), *more]
    result = CliRunner().invoke(app, ["overlay", *arguments])
    assert result.exit_code == 0, result.output
    return out


def rendered(folder: Path) -> list[Manifest]:
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_six_rewards_are_rendered_as_the_four_are(tmp_path: Path, overlay: str) -> None:
    """Every policy of the project's own overlays holds for them too."""
    documents = rendered(written(tmp_path, write_own_profile(tmp_path), overlay))
    assert sorted(front.labels["app.kubernetes.io/name"] for front in fronts(documents)) == sorted(REWARDS)
    for reward in REWARDS:
        for service in (f"{reward}-reward", f"{reward}-reward-replicas"):
            assert named(documents, "Service", service)["spec"]["selector"]["app.kubernetes.io/name"] == reward
        named(documents, "PodDisruptionBudget", f"{reward}-reward")
    breaches = [breach for policy in POLICIES for breach in policy(documents)]
    assert breaches == []
    for kind in ("Deployment", "Service", "ConfigMap", "HorizontalPodAutoscaler"):
        for document in of_kind(documents, kind):
            kubernetes_validate.validate(document, NEWEST, strict=True)


def test_pods_see_the_profile_and_what_it_names(tmp_path: Path) -> None:
    write_own_profile(tmp_path)
    (tmp_path / "scores.py").write_text("def score(answer: str) -> float:\n    return 1.0\n")
    top = write_own_profile(tmp_path, "name: top\nextends: my-team.yaml\n", "top.yaml")
    for overlay in ("gpu-shared", "cpu-pocket"):
        out = written(tmp_path / overlay, top, overlay, "--file", str(tmp_path / "scores.py"))
        documents = rendered(out)
        (profile,) = (one for one in of_kind(documents, "ConfigMap") if one["metadata"]["name"].startswith("profile-"))
        assert set(profile["data"]) == {"top.yaml", "my-team.yaml", "scores.py"}
        (serving,) = (one for one in of_kind(documents, "ConfigMap") if one["metadata"]["name"].startswith("serving-"))
        assert serving["data"]["PROFILE"] == "/profile/top.yaml"
        for deployment in of_kind(documents, "Deployment"):  # the shared Triton writes its repository from it as well
            pod = deployment["spec"]["template"]["spec"]
            readers = [
                one for one in [*pod["initContainers"], *pod["containers"]] if one["name"] in ("models", "front")
            ]
            assert readers
            for reader in readers:
                assert {"name": "profile", "mountPath": "/profile", "readOnly": True} in reader["volumeMounts"]
            assert {"name": "profile", "configMap": {"name": profile["metadata"]["name"]}} in pod["volumes"]


def test_certificates_and_the_trainers_endpoints_name_the_own_rewards(tmp_path: Path) -> None:
    out = written(tmp_path, write_own_profile(tmp_path), "gpu")
    names = named(rendered(out), "Certificate", "reward-server")["spec"]["dnsNames"]
    for reward in REWARDS:
        for host in (f"{reward}-reward", f"{reward}-reward-replicas"):
            assert {host, f"{host}.sync-r1.svc"} <= set(names)
    endpoints = json.loads((out / "endpoints.json").read_text())
    assert endpoints == {reward: f"dns:///{reward}-reward-replicas:9001" for reward in REWARDS}


def test_rewards_that_the_profile_does_not_have_are_not_rendered(tmp_path: Path) -> None:
    raw = yaml.safe_load(OWN)
    del raw["extends"], raw["rewards"]["aesthetic"], raw["rewards"][PICTURES]
    documents = rendered(written(tmp_path, write_own_profile(tmp_path, yaml.safe_dump(raw))))
    assert [front.labels["app.kubernetes.io/name"] for front in fronts(documents)] == [ANSWERS]
    assert {one["metadata"]["name"] for one in of_kind(documents, "Service")} == {
        f"{ANSWERS}-reward", f"{ANSWERS}-reward-replicas"
    }  # fmt: skip


def test_what_cannot_become_an_overlay_is_one_sentence(tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["overlay", *arguments])
        assert result.exit_code == 1
        return " ".join(result.output.split())

    profile, pocket = str(write_own_profile(tmp_path / "team")), str(K8S / "overlays" / "cpu-pocket")
    out = str(tmp_path / "out")
    assert "is there already" in said("--profile", profile, "--from", pocket, "--out", str(tmp_path))
    assert "--from takes an overlay of a checkout" in said("--profile", profile, "--from", str(tmp_path), "--out", out)
    (tmp_path / "elsewhere.py").write_text("")
    away = said("--profile", profile, "--from", pocket, "--out", out, "--file", str(tmp_path / "elsewhere.py"))
    assert "a ConfigMap has no folders" in away
    (tmp_path / "team" / "net.onnx").write_bytes(b"\0" * 1_000_001)
    large = said("--profile", profile, "--from", pocket, "--out", out, "--file", str(tmp_path / "team" / "net.onnx"))
    assert "graphs belong into a bundle" in large
    assert not (tmp_path / "out").exists()


def test_a_judge_s_prompt_travels_with_the_profile_that_names_it(tmp_path: Path) -> None:
    judge = yaml.safe_load((ROOT / "reward_models" / "judges" / "scene.yaml").read_text()) | {"model": "some-vlm"}
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(judge))
    card = {"summary": "s", "source": "s", "licence": "l"}
    variant = {"kind": "judge", "judge": "scenes.yaml", "card": card}
    reward = {"judges": "picture", "default": "asked", "variants": {"asked": variant}}
    (tmp_path / "team.yaml").write_text(
        yaml.safe_dump({"name": "team", "extends": "pocket", "rewards": {"own": reward}})
    )
    (tmp_path / "top.yaml").write_text("name: top\nextends: team.yaml\n")
    out = written(tmp_path, tmp_path / "top.yaml")
    (profile,) = [one for one in of_kind(rendered(out), "ConfigMap") if one["metadata"]["name"].startswith("profile")]
    assert set(profile["data"]) == {"top.yaml", "team.yaml", "scenes.yaml"}


def test_modules_of_own_functions_come_with_the_profile(tmp_path: Path) -> None:
    (tmp_path / "halves.py").write_text("HALF = 0.5\n")
    source = "def score(answer: str) -> float:\n    from halves import HALF\n    return HALF\n"
    out = written(tmp_path, write_function_profile(tmp_path, source, judges="answer"))
    assert sorted(file.name for file in (out / "profile").iterdir()) == ["halves.py", "own.py", "own.yaml"]


def test_of_a_profile_that_extends_a_plugin_only_the_own_file_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin is installed in the image, where the profile names it as it does here."""
    write_plugin(tmp_path / "site", "team-length")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    profile = write_own_profile(tmp_path / "team", "name: own\nextends: plugin:team-length\n", "own.yaml")
    out = written(tmp_path, profile)
    assert [file.name for file in (out / "profile").iterdir()] == ["own.yaml"]
    assert "team-length" in {front.labels["app.kubernetes.io/name"] for front in fronts(rendered(out))}
    refused = CliRunner().invoke(app, ["overlay", "--profile", "plugin:team-length", "--out", str(tmp_path / "new")])
    assert refused.exit_code == 1
    assert "write one that says `extends: plugin:team-length`" in " ".join(refused.output.split())

"""Profiles, releases and cards: a profile says what is served, and says what is wrong with itself."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import yaml
from tiny_graphs import BUILT_IN, write_tiny_profile

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.graphs.spec import GraphFileMissing
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.types import ProfileError, UnknownVariant

REWARDS = ("concept-consistency", "text-faithfulness", "understanding-correctness", "aesthetic")


def test_pocket_serves_the_four_rewards_each_with_a_graph_by_default() -> None:
    profile = load_profile("pocket")
    assert tuple(profile.rewards) == REWARDS
    for served in profile.rewards.values():
        assert served.variants[served.default_variant].graphs


CARDS = [
    (profile, reward, variant)
    for profile in ("pocket", "full")
    for reward, served in load_profile(profile).rewards.items()
    for variant in served.variants
]


@pytest.mark.parametrize(("profile", "reward", "variant"), CARDS)
def test_every_card_is_complete(profile: str, reward: str, variant: str) -> None:
    card = load_profile(profile).rewards[reward].variants[variant].card
    assert (card.reward, card.variant) == (reward, variant)
    for text in (card.summary, card.source, card.licence, card.formula_version):
        assert text
    assert card.required_fields
    assert card.failure_modes
    if profile == "pocket":
        assert card.validity, "no variant without measured figures"
        assert card.validity_command
    assert card.raw_min < card.raw_max
    assert 0 <= card.to_unit(card.raw_min) < card.to_unit(card.raw_max) <= 1


def test_validity_of_the_packaged_encoders_is_what_the_issue_asks_for() -> None:
    profile = load_profile("pocket")
    dino = profile.rewards["concept-consistency"].variants["dino"].card.validity
    assert dino["one_reference/same_vs_other_subject_auc"] >= 0.97
    assert dino["one_reference/within_class_auc"] >= 0.95
    assert dino["in_ellipse/one_reference/within_class_auc"] >= 0.95
    semantic = profile.rewards["understanding-correctness"].variants["semantic"].card.validity
    assert min(semantic[f"{answers}/right_vs_wrong_auc"] for answers in ("written", "pocket", "photos")) >= 0.95


def test_a_release_changes_with_weights_and_names_them(tmp_path: Path) -> None:
    served = write_tiny_profile(tmp_path).rewards["text-faithfulness"]
    release = served.releases["clip_t"]
    assert {pin.name for pin in release.graphs} == {"pocket_clip_image", "pocket_clip_text"}
    assert release.digest != served.releases["clauses"].digest
    assert release.digest == write_tiny_profile(tmp_path).rewards["text-faithfulness"].release("clip_t").digest
    weights = tmp_path / "text.onnx"
    model = onnx.load(str(weights))
    model.doc_string = "others"
    onnx.save(model, str(weights))
    assert (
        load_profile(str(tmp_path / "tiny.yaml")).rewards["text-faithfulness"].release("clip_t").digest
        != release.digest
    )


def test_unknown_variants_are_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownVariant, match=r"'arcface'.*'clip_i'"):
        load_profile("pocket").rewards["concept-consistency"].release("arcface")


def test_reading_a_profile_needs_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path))
    served = load_profile("pocket").rewards["understanding-correctness"]
    with pytest.raises(GraphFileMissing, match=r"python -m sync_r1\.reward_models\.export"):
        _ = served.releases


def test_full_serves_published_models_and_takes_from_its_base_only_what_it_runs() -> None:
    full, pocket = load_profile("full"), load_profile("pocket")
    assert tuple(full.rewards) == REWARDS
    ours, base = (one.rewards["understanding-correctness"].variants for one in (full, pocket))
    assert [made.card for made in ours.values()] == [made.card for made in base.values()]
    assert [name for name, graph in full.graphs.items() if not graph.published] == ["minilm"]
    for served in full.rewards.values():
        assert served.variants[served.default_variant].graphs


def test_a_graph_that_was_not_exported_names_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path))
    full = load_profile("full")
    with pytest.raises(GraphFileMissing, match=r"sync-r1 export laion_v2 --weights"):
        full.rewards["aesthetic"].release("laion_v2")
    with pytest.raises(GraphFileMissing, match=r"sync-r1 export MODEL.*clip_vit_b_32, clip_vit_l_14, dino"):
        ensure_graphs(full)


def test_a_base_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nbase: tiny\ngraphs: {}\nrewards: {}\n")
    with pytest.raises(ProfileError, match="no built-in profile 'tiny'"):
        load_profile(str(path))


def broken(change: str) -> dict:
    file = yaml.safe_load(BUILT_IN.read_text())
    concept = file["rewards"]["concept-consistency"]
    if change == "a misspelt key":
        concept["variants"]["clip_i"]["image_encodr"] = "x"
    elif change == "an unknown graph":
        concept["variants"]["clip_i"]["image_encoder"] = "resnet"
    elif change == "a default that is no variant":
        concept["default"] = "arcface"
    elif change == "a text graph as image encoder":
        concept["variants"]["clip_i"]["image_encoder"] = "minilm"
    elif change == "an image graph as text encoder":
        file["rewards"]["understanding-correctness"]["variants"]["semantic"]["text_encoder"] = "efficientnet_lite2"
    elif change == "a string metric that does not exist":
        variants = file["rewards"]["understanding-correctness"]["variants"]
        variants["rouge"] = variants["bleu"]
    elif change == "a graph with two origins":
        file["graphs"]["minilm"]["checked_in"] = "x.onnx"
    elif change == "a graph without an origin":
        del file["graphs"]["minilm"]["package"]
    elif change == "a published graph that states its own tensors":
        del file["graphs"]["minilm"]["package"]
        file["graphs"]["minilm"]["published"] = "clip_vit_b_32_image"
    elif change == "a published graph that is in no catalogue":
        file["graphs"]["minilm"] = {"published": "resnet", "max_batch_size": 8}
    elif change == "a variant without a kind":
        del file["rewards"]["text-faithfulness"]["variants"]["clip_t"]["kind"]
    elif change == "a kind of answers under a reward of pictures":
        metrics = file["rewards"]["understanding-correctness"]["variants"]
        file["rewards"]["text-faithfulness"]["variants"]["semantic"] = metrics["semantic"]
    elif change == "a falling map":
        concept["variants"]["clip_i"]["card"] |= {"zero_at": 1, "one_at": 0}
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a misspelt key", "image_encodr"),
        ("an unknown graph", "no graph 'resnet'"),
        ("a default that is no variant", "'arcface' is none of"),
        ("a text graph as image encoder", "no image encoder"),
        ("an image graph as text encoder", "no text encoder"),
        ("a string metric that does not exist", "'rouge'"),
        ("a graph with two origins", "exactly one of"),
        ("a graph without an origin", "exactly one of"),
        ("a published graph that states its own tensors", "inputs"),
        ("a published graph that is in no catalogue", "nothing is published as 'resnet'"),
        ("a variant without a kind", "clip_t: expected a mapping with a `kind`"),
        (
            "a kind of answers under a reward of pictures",
            "text-faithfulness judges pictures, but this variant sees none",
        ),
        ("a falling map", "one_at"),
    ],
)
def test_a_broken_profile_says_what_is_wrong(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(broken(change)))
    with pytest.raises(ProfileError, match=message):
        load_profile(str(path))


def test_unknown_profiles_and_broken_yaml_are_profile_errors(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"'nope'.*pocket"):
        load_profile("nope")
    path = tmp_path / "broken.yaml"
    path.write_text("graphs: [")
    with pytest.raises(ProfileError, match=r"broken\.yaml"):
        load_profile(str(path))

"""Own rewards: any name, any kind under it, in a file that extends another. What is wrong is one sentence with file and
key, and nothing of this changes a release of the built-in profiles.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from own_profile import ANSWERS, OWN, PICTURES, REWARDS, write_own_profile

from sync_r1.reward_models.cards import BUILT_IN_REWARDS
from sync_r1.reward_models.profiles import ServedReward, load_profile
from sync_r1.reward_models.profiles.reading import own_files
from sync_r1.reward_models.releases import GraphPin, Release
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import ProfileError

RELEASES = json.loads((Path(__file__).parents[1] / "fixtures" / "built_in_releases.json").read_text())


def test_a_profile_that_extends_another_adds_rewards_and_variants(tmp_path: Path) -> None:
    profile, pocket = load_profile(str(write_own_profile(tmp_path))), load_profile("pocket")
    assert tuple(profile.rewards) == REWARDS
    assert (profile.rewards[PICTURES].judges, profile.rewards[ANSWERS].judges) == ("picture", "answer")
    for name, served in pocket.rewards.items():
        own = profile.rewards[name]
        assert (own.judges, own.default_variant) == (BUILT_IN_REWARDS[name], served.default_variant)
        assert own.variants.keys() - served.variants.keys() == ({"again"} if name == "aesthetic" else set())
        for variant in served.variants:
            assert own.variants[variant].card == served.variants[variant].card
    assert profile.rewards[PICTURES].variants["whole"].card.reward == PICTURES


def test_an_added_reward_has_a_release_of_its_own_name(tmp_path: Path) -> None:
    profile = load_profile(str(write_own_profile(tmp_path)))
    own, theirs = (
        profile.rewards[name].release(one) for name, one in ((PICTURES, "whole"), ("text-faithfulness", "clip_t"))
    )
    assert own.graphs == theirs.graphs
    assert own.digest != theirs.digest


def test_base_still_replaces_a_reward_as_a_whole(tmp_path: Path) -> None:
    file = write_own_profile(
        tmp_path,
        OWN.replace("extends:", "base:").replace(
            "variants:\n      again", "default: again\n    variants:\n      again"
        ),
    )
    profile = load_profile(str(file))
    assert tuple(profile.rewards) == REWARDS
    assert list(profile.rewards["aesthetic"].variants) == ["again"]


def test_equal_names_are_replaced_and_a_chain_is_followed(tmp_path: Path) -> None:
    write_own_profile(tmp_path / "shared")
    text = """
    name: mine
    extends: shared/my-team.yaml
    graphs:
      pocket_clip_text: {published: clip_vit_b_32_text, max_batch_size: 4}
    rewards:
      spelling: {default: exact, variants: {exact: {kind: string, card: {summary: s, source: s, licence: none}}}}
      aesthetic:
        variants:
          laion_v2:
            kind: rating
            image_encoder: pocket_aesthetic
            card: {summary: mine, source: s, licence: none}
    """
    file = write_own_profile(tmp_path, text, "mine.yaml")
    profile = load_profile(str(file))
    assert (profile.rewards[ANSWERS].default_variant, profile.rewards[ANSWERS].judges) == ("exact", "answer")
    assert set(profile.rewards[ANSWERS].variants) == {"bleu", "exact"}
    assert profile.rewards["aesthetic"].variants["laion_v2"].card.summary == "mine"
    assert set(profile.rewards["aesthetic"].variants) == {"laion_v2", "again"}
    assert profile.graphs["pocket_clip_text"].published == "clip_vit_b_32"
    assert own_files(file) == (file, tmp_path / "shared" / "my-team.yaml")


def test_the_order_of_rewards_does_not_depend_on_how_the_file_is_sorted(tmp_path: Path) -> None:
    """It is the order of the ports of `sync-r1 up`."""
    raw = yaml.safe_load(OWN)
    raw["rewards"] = dict(reversed(raw["rewards"].items()))
    assert list(load_profile(str(write_own_profile(tmp_path, yaml.safe_dump(raw)))).rewards)[:4] == list(
        BUILT_IN_REWARDS
    )


def test_a_profile_may_have_one_reward_only(tmp_path: Path) -> None:
    raw = yaml.safe_load(OWN)
    del raw["extends"], raw["rewards"]["aesthetic"], raw["rewards"][PICTURES]
    profile = load_profile(str(write_own_profile(tmp_path, yaml.safe_dump(raw))))
    assert (list(profile.rewards), profile.graphs) == ([ANSWERS], {})


def _pins(served: ServedReward, reward: Reward) -> Iterator[GraphPin]:
    """A graph that is exported stands for where it is from, because its file may not be here."""
    for graph in (served.graphs[name] for name in reward.graphs):
        origin = f"{graph.package or graph.published or graph.library} {graph.file.name}"
        exported = GraphPin(graph.name, graph.version, hashlib.sha256(origin.encode()).hexdigest())
        yield exported if graph.exported else graph.pin


@pytest.mark.parametrize("profile", RELEASES)
def test_releases_of_the_built_in_profiles_are_what_they_were(profile: str) -> None:
    """The fixture was made before rewards could have other names."""
    found = {
        name: {
            "default": served.default_variant,
            "releases": {
                variant: Release(name, variant, reward.card.formula_version, tuple(_pins(served, reward))).digest
                for variant, reward in served.variants.items()
            },
        }
        for name, served in load_profile(profile).rewards.items()
    }
    assert found == RELEASES[profile]
    assert list(found) == list(RELEASES[profile])


LIKENESS, SPELLING = "rewards.sentence-likeness", "rewards.spelling"
COSINE = "{kind: cosine, image_encoder: pocket_clip_image, text_encoder: pocket_clip_text, card: *card}"
ENCODER = "image_encoder: pocket_clip_image,"
WRONG = {
    "no part": ("    judges: picture\n", "", f"{LIKENESS}: `judges` is missing: `picture` or `answer`"),
    "another part": (
        "judges: picture",
        "judges: pictures",
        f"{LIKENESS}.judges: Input should be 'picture' or 'answer', got 'pictures'",
    ),
    "no default": ("    default: bleu\n", "", f"{SPELLING}: `default` is missing; the variants are 'bleu'"),
    "a default that is no variant": ("default: bleu", "default: blue", f"{SPELLING}: `default` 'blue' is none of the"),
    "a name that is none": ("  spelling:", "  Spelling_1:", "rewards: 'Spelling_1' is no name here"),
    "a name that is too long": ("  spelling:", f"  {'a' * 64}:", "is no name here"),
    "a key of a profile": ("extends: pocket", "extend: pocket", "there is no key 'extend' here; there are 'extends', "),
    "a key of a reward": (
        "default: bleu",
        "defaults: bleu",
        f"{SPELLING}: there is no key 'defaults' here; there are 'd",
    ),
    "a key of a variant": (
        ENCODER,
        "image_encodr: pocket_clip_image,",
        f"{LIKENESS}.variants.whole: there is no key 'image_encodr' here; there are 'image_encoder', ",
    ),
    "a kind": (
        "kind: cosine",
        "kind: cosinus",
        f"{LIKENESS}.variants.whole: there is no kind 'cosinus'; there are 'cosine', ",
    ),
    "a graph": (ENCODER, "image_encoder: x,", f"{LIKENESS}.variants.whole: there is no graph 'x'"),
    "a profile that is not there": (
        "extends: pocket",
        "extends: pockt",
        "extends: there is no profile 'pockt': neither the file",
    ),
    "itself": ("extends: pocket", "extends: my-team.yaml", "extends: my-team.yaml → my-team.yaml leads back to itself"),
    "two origins": ("extends: pocket", "extends: pocket\nbase: pocket", "`base` replaces rewards as a whole"),
    "an answer that needs its picture": (
        "bleu: {kind: string, card: *card}",
        f"bleu: {COSINE}",
        f"{SPELLING}.variants.bleu: spelling judges answers, but this variant needs the picture",
    ),
    "a picture that nobody sees": (
        "judges: answer",
        "judges: picture",
        f"{SPELLING}.variants.bleu: spelling judges pictures, but this variant sees none",
    ),
    "no rewards": (OWN[OWN.index("extends") :], "", "rewards: expected at least one reward, got none"),
    "a list": (OWN, "- a", "expected a mapping with `name` and `rewards`, got list"),
    "no YAML": (OWN, "rewards: [", "cannot be read"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_an_own_profile_is_one_sentence_with_file_and_key(tmp_path: Path, wrong: str) -> None:
    old, new, message = WRONG[wrong]
    assert old in OWN
    file = write_own_profile(tmp_path, OWN.replace(old, new, 1))
    with pytest.raises(ProfileError) as raised:
        load_profile(str(file))
    said = str(raised.value)
    assert said.startswith(f"profile {file}")
    assert message in said
    assert "\n" not in said


def test_a_circle_of_profiles_is_named_file_by_file(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "c"), ("c", "b")):
        write_own_profile(tmp_path, f"name: {one}\nextends: {other}.yaml\n", f"{one}.yaml")
    with pytest.raises(ProfileError, match=r"c\.yaml: extends: a\.yaml → b\.yaml → c\.yaml → b\.yaml leads back"):
        load_profile(str(tmp_path / "a.yaml"))


def test_a_mistake_in_a_profile_that_is_extended_is_said_of_that_file(tmp_path: Path) -> None:
    write_own_profile(tmp_path, OWN.replace("kind: string", "kind: strings"))
    file = write_own_profile(tmp_path, "name: top\nextends: my-team.yaml\n", "top.yaml")
    with pytest.raises(
        ProfileError, match=r"my-team\.yaml: rewards\.spelling\.variants\.bleu: there is no kind 'strings'"
    ):
        load_profile(str(file))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "python:own/mine", "x" * 64])
def test_a_graph_s_name_is_a_plain_folder_name_because_it_becomes_one(tmp_path: Path, name: str) -> None:
    graph = {"checked_in": "pocket/artefacts/clip_image.onnx", "max_batch_size": 1}
    tensors = {"inputs": {"a": {"dtype": "uint8", "shape": [1]}}, "outputs": {"b": {"dtype": "uint8", "shape": [1]}}}
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"name": "own", "extends": "pocket", "graphs": {name: graph | tensors}}))
    with pytest.raises(ProfileError, match=rf"own\.yaml: graphs: '{re.escape(name)}' is no name here: expected \^\["):
        load_profile(str(file))

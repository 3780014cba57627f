"""Show-o from its published folders: every key in its place, Show-o's layouts, and errors that say what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from showo_folders import Published, write_published
from torch import Tensor

from sync_r1.trainer_client import config as configuration
from sync_r1.trainer_client.config import ConfigError, PolicyConfig, load_config
from sync_r1.trainer_client.policies.base import Question
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig, attention_allowed
from sync_r1.trainer_client.policies.showo.policy import MASKED, ShowoPolicy
from sync_r1.trainer_client.policies.showo.weights import (
    WeightsError,
    check_keys,
    magvit_config,
    read_settings,
    read_showo,
    read_weights,
)

SHARED = Path(os.environ.get("SYNC_R1_SHARED", Path(__file__).parents[3].parent / "shared" / "data"))
GOLDEN = SHARED / "showo_golden"
golden_needed = pytest.mark.skipif(not GOLDEN.exists(), reason="golden values of Show-o are not in this checkout")
PROMPTS = ["A photo of a red cat.", "a blue striped boy wearing its hat"]


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return write_published(tmp_path)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("binary", [False, True])
def test_published_folders_give_the_numbers_of_their_weights(tmp_path: Path, binary: bool) -> None:
    published = write_published(tmp_path, binary=binary)
    policy = published.load()
    assert (policy.steps, policy.guidance) == (50, 5.0)
    ids = torch.randint(0, published.model.config.vocab_size, (2, 30), generator=seeded())
    allowed = torch.ones(30, 30, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        wanted, got = (
            network.logits(network.hidden(ids, allowed)[0], 0, network.config.vocab_size)
            for network in (published.model, policy.model)
        )
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    codes = published.tokenizer.encode(pictures)
    assert torch.equal(policy.tokenizer.encode(pictures), codes)
    np.testing.assert_array_equal(policy.tokenizer.decode(codes), published.tokenizer.decode(codes))


@golden_needed
def test_golden_weights_in_the_published_layout_give_the_golden_logits(tmp_path: Path) -> None:
    raw = json.loads((GOLDEN / "config.json").read_text())
    for name in ("showo", "magvit", "phi"):
        (tmp_path / name).mkdir()
    weights = {f"showo.{key}": value for key, value in load_file(str(GOLDEN / "lm.safetensors")).items()}
    torch.save(weights, tmp_path / "showo" / "pytorch_model.bin")
    sizes = {"vocab_size": raw["lm"]["vocab_size"], "llm_vocab_size": raw["text_vocab"]}
    sizes |= {"codebook_size": raw["codebook"], "num_vq_tokens": raw["image_tokens"]}
    (tmp_path / "showo" / "config.json").write_text(json.dumps(sizes))
    (tmp_path / "phi" / "config.json").write_text(json.dumps(raw["lm"]))
    settings = read_settings(tmp_path / "showo", tmp_path / "magvit", tmp_path / "phi")
    model = read_showo(settings, torch.float32)
    with np.load(GOLDEN / "golden.npz") as golden, torch.no_grad():
        for layout in ("t2i", "mmu"):
            ids = torch.from_numpy(golden[f"ids_{layout}"])
            # The fused kernel turns a row without anything to attend to into NaN: padding may see itself.
            allowed = torch.from_numpy(golden[f"allow_{layout}"]).bool() | torch.eye(ids.shape[1], dtype=torch.bool)
            real = (ids != raw["text_vocab"] + raw["special"].index("<|pad|>")).numpy()
            logits = model.logits(model.hidden(ids, allowed)[0], 0, model.config.vocab_size).numpy()
            np.testing.assert_allclose(logits[real], golden[f"logits_{layout}"][real], atol=1e-4)


@golden_needed
def test_every_published_key_has_its_place_and_none_may_be_missing() -> None:
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    with torch.device("meta"):
        models = {"showo": Showo(ShowoConfig()), "magvitv2": Magvit(MagvitConfig())}
        found = {
            name: {key: torch.empty(shape) for key, shape in manifest[name].items()} for name in ("showo", "magvitv2")
        }
    assert magvit_config(Path("f"), found["magvitv2"], 32) == MagvitConfig()
    file = Path("pytorch_model.bin")
    for name, model in models.items():
        expected = model.state_dict()
        check_keys(file, expected, found[name], "")
        for key in found[name]:
            without = {other: value for other, value in found[name].items() if other != key}
            with pytest.raises(WeightsError) as error:
                check_keys(file, expected, without, "")
            assert repr(key) in str(error.value)


def test_token_ids_are_those_of_the_published_tokenizer() -> None:
    """Show-o's code adds [PAD] to Phi-1.5's 50295 tokens first, then nine special tokens; then codes and mask."""
    config = ShowoConfig(pad_first=True)
    names = ("pad", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg")
    assert [config.special(f"<|{name}|>") for name in names] == list(range(50295, 50305))
    assert (config.first_code_id, config.mask_id, config.vocab_size) == (50305, 58497, 58498)


def test_layouts_are_the_published_ones(published: Published) -> None:
    policy, config = published.load(), published.model.config
    end, text = policy.words.end_id, policy.words.ids("a red cat")
    state = policy.start(["a red cat"])
    assert state.prompt_ids_N_P.tolist() == [[config.special("<|t2i|>"), end, *text, end]]
    assert policy.words.empty_prompt == (end, end)
    answers = policy.answer([Question("What colour is it?")], temperature=0.0)
    black = policy.tokenizer.encode(np.zeros((1, 8, 8, 3), np.uint8))
    image = [config.special("<|soi|>"), *(black[0] + config.first_code_id).tolist(), config.special("<|eoi|>")]
    question = policy.words.ids("USER: What colour is it? ASSISTANT:")
    assert answers.prompt_ids_N_P.tolist() == [[config.special("<|mmu|>"), *image, end, *question]]
    assert answers.images_codes_N_I is not None
    assert len(policy.words.prompt("cat " * 500)) == 128, "long prompts are cut as in the published code"
    with pytest.raises(ValueError, match="at least one word"):
        policy.start([" "])


def test_soft_tokens_of_a_learned_concept_stand_where_the_release_puts_them(published: Published) -> None:
    words = published.load().words.learning("<bo>")
    ids = words.concept_ids("<bo>")
    assert (len(ids.understanding), len(ids.generation)) == (16, 8)
    assert ids.all == list(range(len(words) - 25, len(words)))
    drawn = words.prompt("A photo of <bo>.")
    first = drawn.index(ids.understanding[0])
    assert drawn[first : first + 24] == ids.understanding + ids.generation
    assert drawn[-3] == ids.name
    asked = words.question("Is <bo> in the picture?")
    first = asked.index(ids.understanding[0])
    assert asked[first : first + 16] == ids.understanding
    assert ids.name in asked[:first]
    assert not set(ids.generation) & set(asked)
    assert not set(ids.all) & set(words.prompt("A photo of <rex>."))


def _naive(policy: ShowoPolicy, prompt_ids: list[int], tokens: Tensor) -> Tensor:
    """(I, codes): the guided log-probabilities of one picture from two whole sequences, without any cache."""
    config, length = policy.model.config, 20
    rows = []
    for text in (prompt_ids, [prompt_ids[0], *policy.words.empty_prompt]):
        ids = torch.where(tokens == MASKED, config.mask_id, tokens + config.first_code_id).tolist()
        padded = [config.special("<|pad|>")] * (length - len(text)) + text
        rows.append([*padded, config.special("<|soi|>"), *ids, config.special("<|eoi|>")])
    ids_2_L = torch.tensor(rows)
    hidden, _ = policy.model.hidden(ids_2_L, attention_allowed(ids_2_L, config, image_first=False))
    logits = policy.model.code_logits(hidden[:, length + 1 : -1])
    return torch.log_softmax((1 + policy.guidance) * logits[0] - policy.guidance * logits[1], -1)


def test_recorded_log_probs_are_the_guided_ones_of_the_masked_pictures(published: Published) -> None:
    policy = published.load(steps=5, noise=1.8)
    state = policy.advance(policy.start(PROMPTS[:1]), 5, temperature=1.0, generator=seeded())
    assert not (state.tokens_N_I == MASKED).any()
    with torch.no_grad():
        got = policy.image_log_probs(state)
        wanted = torch.zeros_like(got)
        for step in range(5):
            visible = torch.where(state.decided_at_N_I[0] < step, state.tokens_N_I[0], MASKED)
            naive = _naive(policy, state.prompt_ids_N_P[0].tolist(), visible)
            now = state.decided_at_N_I[0] == step
            wanted[0, now] = naive.gather(1, state.tokens_N_I[0][:, None])[now, 0]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    assert (got < 0).all()


def test_preview_leaves_the_picture_masked_and_changes_nothing_that_follows(published: Published) -> None:
    policy = published.load(steps=5, noise=1.8)
    state = policy.advance(policy.start(PROMPTS), 2, temperature=1.0, generator=seeded())
    masked = (state.tokens_N_I == MASKED).sum()
    policy.preview(state)
    assert masked > 0
    assert (state.tokens_N_I == MASKED).sum() == masked
    after = [policy.advance(state, 5, temperature=1.0, generator=seeded(2)) for _ in range(2)]
    assert torch.equal(after[0].tokens_N_I, after[1].tokens_N_I)
    assert ((after[0].decided_at_N_I >= 2) == (state.tokens_N_I == MASKED)).all()


def test_saved_policy_has_the_published_layout_and_finds_its_tokenizers(published: Published, tmp_path: Path) -> None:
    policy = published.load(steps=5, noise=1.8)
    policy.save(tmp_path / "saved")
    again = ShowoPolicy.from_pretrained(showo=tmp_path / "saved")
    assert (again.steps, again.guidance, again.noise) == (5, 5.0, 1.8)
    first, second = (p.advance(p.start(PROMPTS), 5, temperature=1.0, generator=seeded()) for p in (policy, again))
    assert torch.equal(first.tokens_N_I, second.tokens_N_I)
    assert read_weights(tmp_path / "saved" / "model.safetensors").keys() == policy.model.state_dict().keys()
    with pytest.raises(ValueError, match="made by from_pretrained"):
        ShowoPolicy(policy.model, policy.tokenizer, policy.words).save(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "missing",
    ["show-o-512x512/config.json", "phi-1.5/config.json", "phi-1.5/tokenizer.json", "show-o-512x512/model.safetensors",
     "magvitv2/model.safetensors"],
)  # fmt: skip
def test_a_missing_file_is_named(published: Published, tmp_path: Path, missing: str) -> None:
    (tmp_path / missing).unlink()
    with pytest.raises(WeightsError) as error:
        published.load()
    assert str((tmp_path / missing).parent) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("show-o-512x512", "w_clip_vit", True, "take show-o-512x512"),
        ("show-o-512x512", "vocab_size", 9, "got 9; the file belongs to another model"),
        ("show-o-512x512", "codebook_size", "many", "expected a positive whole number, got 'many'"),
        ("phi-1.5", "hidden_size", 64, "key 'showo.model.embed_tokens.weight': expected shape"),
    ],
)
def test_settings_of_another_model_are_refused(
    published: Published, tmp_path: Path, file: str, key: str, value: object, message: str
) -> None:
    path = tmp_path / file / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(WeightsError, match=message):
        published.load()


def test_weights_with_a_key_too_many_or_of_another_codebook_are_refused(published: Published) -> None:
    file = published.magvit / "model.safetensors"
    weights = load_file(str(file))
    save_file({**weights, "loss.weight": torch.zeros(1)}, str(file))
    with pytest.raises(WeightsError, match=r"model.safetensors: key 'loss.weight' \(1 such\) is not part"):
        published.load()
    narrower = {key: value for key, value in weights.items() if not key.startswith("quantize.")}
    narrower["encoder.quant_conv.weight"] = narrower["encoder.quant_conv.weight"][:5]
    save_file(narrower, str(file))
    with pytest.raises(WeightsError, match=r"expected 64 codes .* got 2\^5 = 32"):
        published.load()


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("true",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    published = write_published(tmp_path, binary=True)
    file = published.showo / "pytorch_model.bin"
    torch.save({"showo": _Code()}, file)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: holds more than weights"):
        published.load()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match="download it again"):
        published.load()


def test_configuration_names_the_folders_and_the_settings_of_sampling(published: Published) -> None:
    folders = {"image_tokenizer": str(published.magvit), "text_tokenizer": str(published.phi)}
    config = PolicyConfig(kind="showo", weights=str(published.showo), steps=4, noise=1.8, device="cpu", **folders)
    policy = load_policy(config, "fp32")
    assert isinstance(policy, ShowoPolicy)
    assert (policy.steps, policy.guidance, policy.noise, policy.max_answer_tokens) == (4, 5.0, 1.8, 100)
    with pytest.raises(ConfigError, match="key 'magvit' is missing, as in published folders; give the folder"):
        load_policy(PolicyConfig(kind="showo", weights=str(published.showo), device="cpu"), "fp32")


def test_configuration_of_the_release_loads_with_its_values() -> None:
    config = load_config(Path(configuration.__file__).parents[1] / "configs" / "showo_512.yaml")
    policy, optimiser, objective = config.policy, config.optimiser, config.objective
    assert (policy.kind, policy.steps, policy.guidance, policy.noise) == ("showo", 50, 5.0, 1.8)
    assert (config.sampling.group_size, config.selector.preview_at * 50, config.steps) == (9, 10, 50)
    assert (optimiser.learning_rate, optimiser.weight_decay, optimiser.warmup_steps) == (1e-6, 1e-3, 10)
    assert (objective.clip, objective.beta, objective.scale) == (0.2, 0.01, "none")
    assert sum(reward.weight for reward in config.rewards.values()) == pytest.approx(1)

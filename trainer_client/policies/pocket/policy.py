"""The pocket policy: a small Show-o-style model that answers questions and draws 64×64 pictures, on two CPU cores.

Where you are: `policies/showo/policy.py` does the work; here are the pocket policy's limits and files. Its tokenizer
and its vocabulary are checked in, with the cold start, in `artefacts/`.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from sync_r1.trainer_client.policies.pocket.text import Words
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig
from sync_r1.trainer_client.policies.showo.policy import ShowoPolicy

ARTEFACTS = Path(__file__).parent / "artefacts"


class PocketPolicy(ShowoPolicy):
    """See `base.Policy` for the methods' contracts, `ShowoPolicy` for `guidance` and `noise`."""

    max_answer_tokens = 16
    needs_picture = False
    """It learns questions without a picture from the start."""

    def __init__(
        self,
        model: Showo,
        tokenizer: Magvit,
        words: Words,
        *,
        steps: int = 8,
        guidance: float = 0.0,
        noise: float = 1.0,
    ) -> None:
        super().__init__(model, tokenizer, words, steps=steps, guidance=guidance, noise=noise)

    def save(self, folder: Path) -> None:
        """Write the network's weights in their own precision and the sizes; tokenizer and vocabulary stay where they
        are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.contiguous() for name, value in self.model.state_dict().items()},
            str(folder / "policy.safetensors"),
        )
        settings = {
            "steps": self.steps,
            "guidance": self.guidance,
            "noise": self.noise,
            "model": json.loads(self.model.config.to_json()),
            "learned": list(self.words.learned),
        }
        (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path = ARTEFACTS, *, shared: Path = ARTEFACTS) -> PocketPolicy:
        """Read what `save` wrote, in float32; the tokenizer and the vocabulary come from `shared`.

        Raises:
            FileNotFoundError: a file is missing. RuntimeError: weights and sizes do not fit.
        """
        raw = json.loads((folder / "config.json").read_text())
        words = Words(shared / "words.json", raw.get("learned", ()))
        model = Showo(ShowoConfig(**raw["model"]))
        weights = {name: value.float() for name, value in load_file(str(folder / "policy.safetensors")).items()}
        model.load_state_dict(weights)
        tokenizer = Magvit.load(shared / "tokenizer.safetensors")
        return cls(model, tokenizer, words, steps=raw["steps"], guidance=raw["guidance"], noise=raw["noise"])

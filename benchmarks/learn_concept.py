"""How well a concept is learned that the cold start has never seen: losses and the oracle's verdict, before and after.

    python -m benchmarks.learn_concept --out FOLDER

Ten pictures each of three concepts with looks of their own are learned by the checked-in pocket policy as
`sync-r1 learn-concept` does. The oracle then reads pictures drawn from the name alone, in which only the learned tokens
tell the look, and from the text of the loop (condition, look and fact in words). "before" is the policy with the new
tokens in place but not trained.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from sync_r1.reward_models.pocket.oracle import Oracle
from sync_r1.trainer_client.evaluation.pocketbench import Concept, generation_prompt, write_pocketbench
from sync_r1.trainer_client.policies.concept_data import read_concept
from sync_r1.trainer_client.policies.learn_concept import POCKET_TRAINING, ConceptLearner, learn_concept
from sync_r1.trainer_client.policies.pocket import PocketPolicy

UNSEEN = (
    Concept("pip", "dog", "green", "striped", "red", "blue", "city", "beach",
            ("orange", "ball"), ("purple", "star"), ("hat", "home")),
    Concept("lu", "mug", "orange", "plain", "blue", "green", "snow", "forest",
            ("red", "box"), ("yellow", "flower"), ("place", "toy")),
    Concept("ned", "bird", "red", "spotted", "yellow", "pink", "room", "city",
            ("blue", "flower"), ("green", "ball"), ("scarf", "charm")),
)  # fmt: skip
PICTURES = 96


def accuracy(policy: PocketPolicy, concept: Concept, prompts: list[str], seed: int) -> dict[str, float]:
    """Shares of pictures with the concept's kind, colour, pattern, and all three."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (prompts * (PICTURES // len(prompts) + 1))[:PICTURES]
    state = policy.advance(policy.start(drawn), policy.steps, temperature=1.0, generator=generator)
    scenes = [reading.scene for reading in Oracle.load().read(policy.decode(state))]
    parts = {
        part: [getattr(scene, part) == getattr(concept, part) for scene in scenes]
        for part in ("kind", "colour", "pattern")
    }
    parts["all"] = [concept.is_seen_in(scene) for scene in scenes]
    return {name: sum(values) / len(values) for name, values in parts.items()}


def run(folder: Path, concept: Concept, seed: int) -> dict[str, object]:
    """Learn one concept and measure it."""
    train = folder / "concept" / "train" / concept.name
    settings = POCKET_TRAINING
    roles = concept.training
    prompts = {
        "name": [concept.token],
        "loop": [generation_prompt(concept.condition(role), concept.info, concept.fact(role)) for role in roles],
    }
    policy = PocketPolicy.load()
    data = read_concept(train, train / "info.json", policy.tokenizer.config.image_size)
    untrained = ConceptLearner(policy, data, settings)
    untrained.finish()
    before = {name: accuracy(policy, concept, texts, seed) for name, texts in prompts.items()}
    policy = PocketPolicy.load()
    started = time.process_time()
    losses = learn_concept(policy, data, settings)
    seconds = time.process_time() - started
    after = {name: accuracy(policy, concept, texts, seed) for name, texts in prompts.items()}
    return {
        "concept": concept.info, "processor_seconds": round(seconds, 1),
        "loss_before": asdict(losses[0]), "loss_after": asdict(losses[1]),
        "oracle_before": before, "oracle_after": after,
    }  # fmt: skip


def main() -> None:
    """Parse the command line, measure, write `learn_concept.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures and the figures")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write_pocketbench(args.out / "benchmark", seed=1, concepts=UNSEEN)
    results = []
    for seed, concept in enumerate(UNSEEN):
        results.append(run(args.out / "benchmark", concept, seed))
        print(json.dumps(results[-1]), flush=True)
    (args.out / "learn_concept.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

r"""Trains the pocket profile and writes its artefacts: `python -m sync_r1.reward_models.pocket.train`.

Without arguments everything is trained from scratch on two cores in under an hour: pocket-clip, pocket-aesthetic, the
oracle, their graphs, and `validity.json`, the figures that the cards show. `--only PART` does one part.

Pictures of a policy come out of its image tokenizer, and rewards and oracle have to read those too. Once a tokenizer
exists,

    python -m sync_r1.reward_models.pocket.train --continue \
        --reconstruct-with sync_r1.trainer_client.policies.round_trip:round_trip

goes on from the checked-in weights with reconstructions mixed in. The function takes and returns uint8 pictures
(N, 64, 64, 3); it is named rather than imported because reward models do not depend on the trainer's side.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from sync_r1.reward_models.errors import UserError, exit_on_error
from sync_r1.reward_models.pocket.clip import ARTEFACTS, load_pocket_clip
from sync_r1.reward_models.pocket.oracle import OracleNet
from sync_r1.reward_models.pocket.training.aesthetic import train_aesthetic
from sync_r1.reward_models.pocket.training.batches import Reconstruct, ReconstructedPool
from sync_r1.reward_models.pocket.training.export import export_aesthetic, export_clip
from sync_r1.reward_models.pocket.training.train_clip import save_half, train_clip
from sync_r1.reward_models.pocket.training.train_oracle import train_oracle
from sync_r1.reward_models.pocket.training.validity import measure

PARTS = ("clip", "aesthetic", "oracle", "validity")
SEED = 0
CLIP_STEPS, ORACLE_STEPS = 1100, 1400
CLIP_STEPS_FURTHER = 550  # with --continue
POOL_SIZE = 12288


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and do the parts."""
    parser = argparse.ArgumentParser(description="Train the pocket profile's reward models and its oracle.")
    parser.add_argument("--only", choices=PARTS, help="do this part alone (default: all, in this order)")
    parser.add_argument("--threads", type=int, default=2, help="cores to use (default 2)")
    parser.add_argument(
        "--reconstruct-with", metavar="MODULE:FUNCTION", help="an image tokenizer's round trip to mix in"
    )
    parser.add_argument(
        "--continue", dest="go_on", action="store_true", help="start from the artefacts instead of from scratch"
    )
    parser.add_argument("--folder", type=Path, default=ARTEFACTS, help="where artefacts are read and written")
    options = parser.parse_args(arguments)
    with exit_on_error(options.folder):
        _run(options, arguments or sys.argv[1:])


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    torch.set_num_threads(options.threads)
    folder: Path = options.folder
    reconstruct = load_function(options.reconstruct_with) if options.reconstruct_with else None
    parts = (options.only,) if options.only else PARTS
    pool = None
    if reconstruct is not None and parts != ("validity",):
        print(f"making {POOL_SIZE} reconstructions", flush=True)
        pool = ReconstructedPool(reconstruct, POOL_SIZE, np.random.default_rng(SEED + 1))

    if "clip" in parts:
        weights = folder / "pocket_clip.safetensors"
        trainer = train_clip(
            CLIP_STEPS_FURTHER if options.go_on else CLIP_STEPS, SEED, pool, weights if options.go_on else None
        )
        save_half(trainer, weights)
        export_clip(trainer.model.eval(), folder)
    if "aesthetic" in parts:
        clip = load_pocket_clip(folder / "pocket_clip.safetensors")
        head = train_aesthetic(clip, SEED + 2, pool)
        save_half(head, folder / "pocket_aesthetic.safetensors")
        export_aesthetic(clip, head, folder)
    if "oracle" in parts:
        weights = folder / "oracle.safetensors"
        net: OracleNet = train_oracle(ORACLE_STEPS, SEED + 3, pool, weights if options.go_on else None)
        save_half(net, weights)
    if "validity" in parts:
        began = time.monotonic()
        report = {
            "command": " ".join(["python -m sync_r1.reward_models.pocket.train", *arguments]),
            **measure(reconstruct=reconstruct, folder=folder),
        }
        (folder / "validity.json").write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(report, indent=1), f"\nmeasured in {time.monotonic() - began:.0f} s")


def load_function(named: str) -> Reconstruct:
    """The callable at "package.module:function". Raises UserError on another form, or if it is absent."""
    module, separator, function = named.partition(":")
    if not (module and separator and function):
        raise UserError(f"--reconstruct-with takes PACKAGE.MODULE:FUNCTION; got {named!r}")
    try:
        found: Reconstruct = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"--reconstruct-with: there is no {named}: {error}") from error
    return found


if __name__ == "__main__":
    main()

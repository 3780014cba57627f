"""Make the checked-in cold-start checkpoint again.

    python -m sync_r1.trainer_client.policies.cold_start --stage tokenizer|policy

Where you are: run `tokenizer` first, then `policy`; both train for a fixed time on two CPU cores (under 60 minutes
together) with fixed seeds and write into `policies/pocket/artefacts/`, or into `--out`. After the policy stage
`SHA256SUMS` names the hash of every artefact: what reinforcement learning starts from is fixed before it starts.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

from sync_r1.trainer_client.policies.cold_start.data import GENERIC, vocabulary_texts
from sync_r1.trainer_client.policies.cold_start.train_policy import PolicyTraining, train_policy
from sync_r1.trainer_client.policies.cold_start.train_tokenizer import TokenizerTraining, train_tokenizer
from sync_r1.trainer_client.policies.pocket.policy import ARTEFACTS
from sync_r1.trainer_client.policies.pocket.text import write_vocabulary
from sync_r1.trainer_client.tasks.pocketbench import CONCEPTS

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Write the hash of every other file in `folder`, in the format of `sha256sum`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
    (folder / SUMS).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stage", choices=("tokenizer", "policy"), required=True)
    parser.add_argument(
        "--out", type=Path, default=ARTEFACTS, help="folder of the artefacts (default: the checked-in one)"
    )
    parser.add_argument("--minutes", type=float, help="training time; default: that of the checked-in artefacts")
    parser.add_argument("--threads", type=int, help="CPU threads; default: that of the checked-in artefacts")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    changes = {name: value for name in ("minutes", "threads") if (value := getattr(args, name)) is not None}
    if args.stage == "tokenizer":
        train_tokenizer(args.out, replace(TokenizerTraining(), **changes))
    else:
        names = [concept.token for concept in CONCEPTS]
        write_vocabulary(args.out / "words.json", vocabulary_texts(), [*names, f"<{GENERIC}>"])
        train_policy(args.out, replace(PolicyTraining(), **changes))
    write_sums(args.out)

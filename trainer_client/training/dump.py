"""What is left of a batch whose update is not a number: enough to take that update again and see where it broke.

A folder `failed/step-000012/`: `batch.json` (why, prompts, answers, scores, credit, gate), `tensors.safetensors` (token
ids, masks, decoding steps and reference log-probs of each trajectory, by its index) and its pictures.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from sync_r1.trainer_client.atomic_write import write_text
from sync_r1.trainer_client.tasks.tasks import prompt_of
from sync_r1.trainer_client.training.batch import Batch
from sync_r1.trainer_client.training.score_log import result_to_json
from sync_r1.trainer_client.training.sync_grpo import Credit


def dump_batch(folder: Path, batch: Batch, credit: Credit, reason: str) -> Path:
    """Write `batch` into `folder` (made if needed) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for index, trajectory in enumerate(batch.selected.trajectories):
        answer, state = trajectory.answer, trajectory.state
        named: dict[str, torch.Tensor | None] = {}
        if answer is not None:
            named |= {
                "question_ids": answer.prompt_ids_N_P,
                "answer_tokens": answer.tokens_N_L,
                "answer_mask": answer.mask_N_L,
                "question_image_codes": answer.images_codes_N_I,
            }
        if state is not None:
            named |= {
                "prompt_ids": state.prompt_ids_N_P,
                "image_tokens": state.tokens_N_I,
                "decided_at": state.decided_at_N_I,
            }
        if batch.recorded is not None:
            for modality, recorded in (("answer", batch.recorded.answers), ("image", batch.recorded.images)):
                named[f"reference_{modality}_log_probs"] = recorded[index] if recorded is not None else None
        tensors |= {
            f"{index}.{name}": value.detach().cpu().clone().contiguous()
            for name, value in named.items()
            if value is not None
        }
    save_file(tensors, str(folder / "tensors.safetensors"))
    for index, pixels in enumerate(batch.pictures):
        if pixels is None:
            continue
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    trajectories = [
        {
            "group": trajectory.group,
            "node": trajectory.node,
            "task": batch.tasks[trajectory.group].kind,
            "condition": batch.tasks[trajectory.group].key,
            "question": batch.tasks[trajectory.group].question,
            "answer": trajectory.text,
            "prompt": prompt_of(batch.tasks[trajectory.group], trajectory.text),
            "answer_credit": credit.answer_N[index],
            "image_credit": credit.image_N[index],
            "answer_weight": credit.answer_weights_N[index],
            "image_weight": credit.image_weights_N[index],
        }
        for index, trajectory in enumerate(batch.selected.trajectories)
    ]
    values = {
        "reason": reason,
        "decoding_steps": batch.steps,
        "trajectories": trajectories,
        "gate": [None if score != score else score for score in batch.selected.gate_N.tolist()],
        "scores": result_to_json(batch.scores),
    }
    write_text(folder / "batch.json", json.dumps(values, indent=1) + "\n")
    return folder

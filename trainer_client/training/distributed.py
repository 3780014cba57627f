"""Several processes that train one policy, under `torchrun` or `accelerate launch`: who they are, and what they share.

    torchrun --nproc-per-node 2 -m sync_r1.cli.main train …
    accelerate launch --multi_gpu --num_processes 2 -m sync_r1.cli.main train …

Every process draws the same tasks from the same random state and takes its share of them, so a group stays in one
process. Scores are gathered, and everything that follows from them (credit, weights of groups, θ, curriculum, figures)
is computed from all of them in every process alike; only the gradients of a process's own trajectories are its own, and
their sum is the gradient of the whole batch. Only the first process writes the run's folder; the score logs of others
are the exception, because a score must be on the disk before anything waits for another process.

`ddp`: every process holds the policy. Gradients are added up in buckets once per update, without the DDP wrapper: that
one hooks into `forward` of one module, but losses call several methods of a policy, in a number of backward passes that
differs between processes. `fsdp2`: transformer blocks (weights, gradients, optimiser state) are divided by
`fully_shard`, the rest is held by all; a block's weights are whole while something is computed with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sync_r1.trainer_client.config import ConfigError
from sync_r1.trainer_client.policies.base import Policy

T = TypeVar("T")
_BUCKET = 2**24
"""Numbers per all-reduce: large enough to be worth a round, small enough not to need the gradients twice."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's items; those of all processes are disjoint and make up `items`."""
        return list(items[self.rank :: self.size])

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The first process's value. Waits for all."""
        return self.gather(value)[0]

    def barrier(self) -> None:
        """Return once every process is here."""
        self.gather(None)

    def all_reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients of replicated parameters by their sums over the processes (divided ones are already).

        A parameter that no process has a gradient for stays without one, so that the optimiser leaves it alone.
        """
        if self.size == 1:
            return
        plain = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        used = [any(of_ranks) for of_ranks in zip(*self.gather([one.grad is not None for one in plain]))]
        for bucket in _buckets([parameter for parameter, wanted in zip(plain, used) if wanted]):
            flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in bucket])
            dist.all_reduce(flat)
            for parameter, part in zip(bucket, flat.split([parameter.numel() for parameter in bucket])):
                parameter.grad = part.view_as(parameter)

    def clip_gradients(self, parameters: Sequence[nn.Parameter], limit: float) -> float:
        """Scale the gradients so that their norm over all processes is at most `limit`; returns the norm before."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        divided = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
        if not divided:
            return torch.nn.utils.clip_grad_norm_(parameters, limit).item()
        squares = torch.stack([part.float().square().sum() for part in divided]).sum()
        dist.all_reduce(squares)
        plain = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        norm = float(sum([gradient.float().square().sum() for gradient in plain], squares).sqrt())
        # As torch's own: never up, and without a division by 0.
        factor = min(1.0, limit / (norm + 1e-6))
        for part in [*divided, *plain]:
            part.mul_(factor)
        return norm


SINGLE_PROCESS = Ranks()


def join(timeout_s: float) -> Ranks:
    """This process's place, from the launcher's variables; without a launcher it is alone.

    A process waits at most `timeout_s` for another one. Raises ConfigError under a launcher that gives no ranks.
    """
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        # What `accelerate launch --cpu --num_processes 2` does: one process, or as many as mpirun starts, each alone.
        raise ConfigError(
            "MASTER_ADDR is set but WORLD_SIZE and RANK are not, so every process would train alone; use torchrun or "
            "`accelerate launch --multi_gpu` (without GPUs too), or unset MASTER_ADDR to train in one process"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE_PROCESS
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave(ranks: Ranks) -> None:
    """The end of the run: afterwards nothing can be gathered."""
    if ranks.size > 1:
        dist.destroy_process_group()


class Shards:
    """The divided blocks of a policy; none where every process holds all of it, and then nothing here does anything."""

    def __init__(self, blocks: Sequence[FSDPModule] = ()) -> None:
        self._blocks = list(blocks)

    def __bool__(self) -> bool:
        return bool(self._blocks)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Weights are whole meanwhile, so that no process waits for another in forward passes.

        They stay whole in backward passes too: gradients reach a block through the keys and values that it left in a
        cache, where FSDP's hooks do not see them coming and would find the weights gone.
        """
        for block in self._blocks:
            block.unshard()
        yield
        for block in self._blocks:
            block.reshard()

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """Plain full tensors stand where the divided ones are meanwhile, so that the policy can be saved by anybody."""
        swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
        for block in self._blocks:
            for module in block.modules():  # type: ignore[attr-defined]
                for name, parameter in module.named_parameters(recurse=False):
                    if isinstance(parameter, DTensor):
                        swapped.append((module, name, cast(nn.Parameter, parameter)))
                        full = nn.Parameter(parameter.full_tensor().detach(), requires_grad=parameter.requires_grad)
                        module._parameters[name] = full
        yield
        for module, name, parameter in swapped:
            module._parameters[name] = parameter


def shard(policy: Policy, ranks: Ranks) -> Shards:
    """Divide the trainable transformer blocks of the policy's `model` (the members of its module lists) over the
    processes. Raises ValueError when there are none.
    """
    if ranks.size == 1:
        return Shards()
    model = getattr(policy, "model", None)
    if not isinstance(model, nn.Module):
        raise ValueError(f"parallel: fsdp2 divides the blocks of a policy's model; {type(policy)} has none, so use ddp")
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.size,))
    blocks: list[Any] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and not any(module in block.modules() for block in blocks):
            blocks += [block for block in module if any(one.requires_grad for one in block.parameters())]
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=False)
        block.set_reshard_after_backward(False)  # `Shards.whole` does it
        # Weights of groups are normalised over all processes, so gradients add up instead of being averaged.
        block.set_force_sum_reduction_for_comms(True)
        block.set_gradient_divide_factor(1.0)
    return Shards(blocks)


def parameter_groups(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """For an optimiser, whose fused loops cannot mix divided and replicated parameters."""
    groups = [
        [parameter for parameter in parameters if isinstance(parameter, DTensor)],
        [parameter for parameter in parameters if not isinstance(parameter, DTensor)],
    ]
    return [{"params": group} for group in groups if group]


def full_optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """`optimiser.state_dict()` with whole tensors; all processes must call it."""
    state = optimiser.state_dict()
    state["state"] = {
        index: {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in moments.items()}
        for index, moments in state["state"].items()
    }
    return state


def load_full_optimiser_state(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `full_optimiser_state`."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    divided = {index: parameter for index, parameter in enumerate(parameters) if isinstance(parameter, DTensor)}
    moments = {
        index: {
            name: distribute_tensor(value, divided[index].device_mesh, divided[index].placements)
            if index in divided and isinstance(value, Tensor) and value.shape == divided[index].shape
            else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    optimiser.load_state_dict({**state, "state": moments})


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of one type that together have at most `_BUCKET` numbers (or are one large one)."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        full = sum(one.numel() for one in bucket) + parameter.numel() > _BUCKET
        if bucket and (full or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket

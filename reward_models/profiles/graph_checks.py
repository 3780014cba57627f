"""Whether an ONNX file is what its profile says: names, types, shapes and a batch of any size.

Found out when the profile is read, because Triton's own answer to a wrong name can be a crash.
"""

from __future__ import annotations

from sync_r1.reward_models.errors import nearest_first
from sync_r1.reward_models.graphs.onnx_header import NoOnnxFile, OnnxHeader, OnnxTensor, read_header
from sync_r1.reward_models.graphs.spec import GraphSpec, TensorSpec, data_path
from sync_r1.reward_models.types import ProfileError


def check_onnx_file(graph: GraphSpec) -> None:
    """Raises ProfileError, which names the key, for a file that is there and does not fit.

    An exported file that is damaged is left to its pin, whose message has the cure.
    """
    if not graph.file.is_file():
        return
    where = f"graphs.{graph.name}"
    try:
        header = read_header(graph.file)
    except NoOnnxFile as error:
        if graph.exported:
            return
        raise ProfileError(f"{where}: {graph.file} is no ONNX file: {error}") from None
    except OSError as error:
        raise ProfileError(f"{where}: {graph.file} cannot be read: {error.strerror}") from None
    for kind, stated, held in (("input", graph.inputs, header.inputs), ("output", graph.outputs, header.outputs)):
        for tensor in stated:
            _check_tensor(f"{where}.{kind}s.{tensor.name}", kind, graph, tensor, held)
    names = {tensor.name for tensor in graph.inputs}
    if missing := [name for name in header.inputs if name not in names]:
        raise ProfileError(
            f"{where}.inputs: {graph.file} takes {missing[0]!r} too, which the profile does not state; "
            "state it, or export the graph without it"
        )
    _check_data_files(where, graph, header)


def _check_tensor(where: str, kind: str, graph: GraphSpec, stated: TensorSpec, held: dict[str, OnnxTensor]) -> None:
    if stated.name not in held:
        raise ProfileError(
            f"{where}: {graph.file} has no {kind} {stated.name!r}; it has {nearest_first(stated.name, held)}"
        )
    found = held[stated.name]
    if found.dtype != stated.dtype:
        cure = "state what it is, or export it as stated"
        if stated.dtype == "uint8":
            cure = "pictures come as uint8 from 0 to 255: put the cast and the normalisation into the graph"
        raise ProfileError(f"{where}.dtype: expected {stated.dtype}, but in {graph.file} it is {found.dtype}; {cure}")
    if found.shape is None:
        return
    if found.shape and found.shape[0] is not None:
        raise ProfileError(
            f"{where}: the first axis is the batch and must be of any length, but {graph.file} fixes it to "
            f"{found.shape[0]}; export it with a dynamic axis 0 (in torch.onnx.export `dynamic_axes`)"
        )
    rest = found.shape[1:]
    fits = len(rest) == len(stated.shape) and all(
        length is None or length == want for length, want in zip(rest, stated.shape)
    )
    if not found.shape or not fits:
        raise ProfileError(
            f"{where}.shape: expected {_shown(stated.shape)} after the batch axis, but {graph.file} has "
            f"{_shown(rest) if found.shape else 'not even that'}; state what it has (-1 is any length), or reshape it "
            "in the graph"
        )


def _check_data_files(where: str, graph: GraphSpec, header: OnnxHeader) -> None:
    """Weights outside the file lie in one place, so that they can be pinned and copied with it."""
    beside = data_path(graph.file).name
    if strange := sorted(header.data_files - {beside}):
        raise ProfileError(
            f"{where}: {graph.file} keeps weights in {strange[0]!r}, expected all of them in {beside!r}; save it again "
            f"with onnx.save_model(…, save_as_external_data=True, location={beside!r})"
        )
    if header.data_files and not data_path(graph.file).is_file() and not graph.exported:
        raise ProfileError(f"{where}: {graph.file} keeps weights in {beside!r}, which is not beside it; put it there")


def _shown(shape: tuple[int | None, ...]) -> str:
    return str([-1 if length is None else length for length in shape])

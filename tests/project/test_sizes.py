"""Functions, parameter lists and modules stay small enough to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("protos", "reward_models", "services", "trainer_client", "cli", "benchmarks")
MOST_FUNCTION_LINES, MOST_PARAMETERS, MOST_MODULE_LINES = 60, 7, 300


def source_files() -> list[Path]:
    """Written by hand, so without what protoc makes."""
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if "_pb2" not in file.name)


def too_large(text: str, name: str) -> Iterator[str]:
    """What is over a limit in a module of this text."""
    lines = text.count("\n")
    if lines > MOST_MODULE_LINES:
        yield f"{name}: {lines} lines, expected at most {MOST_MODULE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        place = f"{name}:{node.lineno} {node.name}"
        assert node.end_lineno is not None
        if (length := node.end_lineno - node.lineno + 1) > MOST_FUNCTION_LINES:
            yield f"{place}: {length} lines, expected at most {MOST_FUNCTION_LINES}"
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if parameters and parameters[0].arg in ("self", "cls"):
            parameters = parameters[1:]
        if len(parameters) > MOST_PARAMETERS and not is_command(name, parameters):
            yield f"{place}: {len(parameters)} parameters, expected at most {MOST_PARAMETERS}"


def is_command(name: str, parameters: list[ast.arg]) -> bool:
    """A command's parameters are its options: typer reads them off the function, so they cannot be grouped."""
    notes = [ast.unparse(one.annotation) for one in parameters if one.annotation is not None]
    options = [note for note in notes if note.startswith("Annotated[") or note.endswith(("Option", "Argument"))]
    return name.startswith("cli/") and len(options) == len(parameters)


def test_no_function_and_no_module_is_too_large() -> None:
    found = {}
    for file in source_files():
        name = str(file.relative_to(ROOT))
        found[name] = list(too_large(file.read_text(), name))
    assert len(found) > 300
    over = [line for lines in found.values() for line in lines]
    assert not over, "\n".join(["take these apart:", *over])


def test_the_limits_are_noticed() -> None:
    long = "def long():\n" + "    pass\n" * MOST_FUNCTION_LINES
    wide = "def wide(self, a, b, c, d, e, f, g, h): ...\n"
    assert list(too_large(long, "m")) == ["m:1 long: 61 lines, expected at most 60"]
    assert list(too_large(wide, "m")) == ["m:1 wide: 8 parameters, expected at most 7"]
    assert list(too_large("#\n" * (MOST_MODULE_LINES + 1), "m"))
    assert not list(too_large("def fine(a, b): ...\n", "m"))

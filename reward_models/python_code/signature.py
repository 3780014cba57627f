"""What an own function takes, read off its source: nothing of it is run when a profile is read."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from sync_r1.reward_models.errors import nearest_first
from sync_r1.reward_models.python_code.fields import FIELDS, Parameter, type_of
from sync_r1.reward_models.python_code.sources import Source, Sources, origin_of
from sync_r1.reward_models.types import ProfileError

_LONGEST_CHAIN = 8
"""Re-exports and base classes that are followed."""
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Signature:
    """How the function is called."""

    parameters: tuple[Parameter, ...]
    batch: bool
    """Whether every argument is a list, one entry for each item."""
    is_class: bool
    """Whether `name` is a class, constructed once in each worker."""
    takes_device: bool
    """Whether its constructor has an argument `device`."""


@dataclass(frozen=True)
class _Found:
    source: Source
    node: _Definition


def read_signature(sources: Sources, module: str, name: str, arguments: Collection[str]) -> Signature:
    """The signature of `name` in `module`. `arguments` are what the profile gives: to the constructor of a class, or to
    the function itself. Raises ProfileError naming the file, the argument and what was expected.
    """
    found = _find(sources, module, name)
    if not isinstance(found.node, ast.ClassDef):
        parameters, batch = _parameters(found, name, arguments, skip_self=False)
        _check_given(found, name, arguments, _arguments(found.node, skip_self=False), found.node.args.kwarg is not None)
        return Signature(parameters, batch, is_class=False, takes_device=False)
    call = _method(sources, found, "__call__")
    if call is None:
        raise ProfileError(f"{_place(found)}: class {name} has no `__call__`, which is what scores; write one")
    parameters, batch = _parameters(call, f"{name}.__call__", (), skip_self=True)
    takes_device = _check_constructor(sources, found, name, arguments)
    return Signature(parameters, batch, is_class=True, takes_device=takes_device)


def _find(sources: Sources, module: str, name: str, chain: int = 0) -> _Found:
    """Where `name` is defined, through the modules that only pass it on. Raises ProfileError."""
    source = sources.modules[module]
    defined: dict[str, ast.stmt] = {}
    for one in _statements(source.parse().body):
        for bound in _bound(one):
            defined[bound] = one
    statement = defined.get(name)
    if isinstance(statement, _Definition):
        return _Found(source, statement)
    if isinstance(statement, ast.ImportFrom) and chain < _LONGEST_CHAIN:
        origin = origin_of(source, statement)
        original = next(alias.name for alias in statement.names if (alias.asname or alias.name) == name)
        if origin in sources.modules:
            return _find(sources, origin, original, chain + 1)
    if statement is not None:
        raise ProfileError(
            f"{source.file}, line {statement.lineno}: {name!r} is not defined there but made in another way; expected "
            f"`def {name}(…)` or `class {name}`, whose arguments can be read"
        )
    offered = [key for key, one in defined.items() if isinstance(one, _Definition) and not key.startswith("_")]
    raise ProfileError(f"{source.file} has no {name!r}; it defines {nearest_first(name, offered)}")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those at the top of a module, also under `if` and `try`."""
    for statement in body:
        yield statement
        for part in ("body", "handlers", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                yield from _statements(getattr(statement, part, []))


def _bound(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [alias.asname or alias.name for alias in names]
    return []


def _method(sources: Sources, found: _Found, name: str, chain: int = 0) -> _Found | None:
    """A method of a class, or of the nearest of its bases that has it and can be read."""
    assert isinstance(found.node, ast.ClassDef)
    for statement in found.node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name == name:
            return _Found(found.source, statement)
    for base in found.node.bases if chain < _LONGEST_CHAIN else []:
        if isinstance(base, ast.Name):
            try:
                above = _find(sources, found.source.module, base.id)
            except ProfileError:
                continue  # of another distribution
            if isinstance(above.node, ast.ClassDef) and (method := _method(sources, above, name, chain + 1)):
                return method
    return None


def _check_constructor(sources: Sources, found: _Found, name: str, arguments: Collection[str]) -> bool:
    """Whether it takes a `device`. Raises ProfileError where it cannot be called with the profile's `arguments`."""
    assert isinstance(found.node, ast.ClassDef)
    constructor = _method(sources, found, "__init__")
    if constructor is not None:
        assert not isinstance(constructor.node, ast.ClassDef)
        taken, anything = _arguments(constructor.node, skip_self=True), constructor.node.args.kwarg is not None
    else:
        taken, anything = _dataclass_fields(found.node), False
    _check_given(found, name, arguments, taken, anything)
    return "device" in taken or anything


def _check_given(found: _Found, name: str, given: Collection[str], taken: Mapping[str, bool], anything: bool) -> None:
    """Raise ProfileError for an entry of `arguments` that nothing takes, and for an argument that nobody gives.

    `taken`: argument -> whether it has a default.
    """
    for one in given:
        if one not in taken and not anything:
            raise ProfileError(
                f"{_place(found)}: {name} takes no argument {one!r} (key `arguments`); it takes "
                f"{nearest_first(one, taken)}"
            )
    if isinstance(found.node, ast.ClassDef):
        missing = [one for one, default in taken.items() if not default and one != "device" and one not in given]
        if missing:
            raise ProfileError(
                f"{_place(found)}: {name} needs the argument {missing[0]!r}; give it under the key `arguments`"
            )


def _parameters(
    found: _Found, name: str, given: Collection[str], *, skip_self: bool
) -> tuple[tuple[Parameter, ...], bool]:
    """The arguments that items fill, and whether they are lists of items. Raises ProfileError."""
    node, place = found.node, _place(found)
    assert not isinstance(node, ast.ClassDef)
    if isinstance(node, ast.AsyncFunctionDef):
        raise ProfileError(f"{place}: {name} is `async`; expected a plain `def`")
    if node.args.vararg or (node.args.posonlyargs[1:] if skip_self else node.args.posonlyargs):
        raise ProfileError(f"{place}: {name} has arguments without a name; it is called by names only")
    annotated = {one.arg: one.annotation for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    parameters, batches = [], {}
    for argument, default in _arguments(node, skip_self=skip_self).items():
        if argument in given or (default and argument not in FIELDS):
            continue
        parameter, batches[argument] = _parameter(place, argument, annotated[argument], default)
        parameters.append(parameter)
    if not parameters:
        raise ProfileError(f"{place}: {name} takes no field of a sample; the fields are {', '.join(FIELDS)}")
    if len(set(batches.values())) > 1:
        lists, single = (next(one for one, batch in batches.items() if batch == which) for which in (True, False))
        raise ProfileError(
            f"{place}: `{lists}` is a list of items, but `{single}` is one item's; make all arguments lists, or none"
        )
    batch = next(iter(batches.values()))
    if batch and (optional := next((one.name for one in parameters if one.optional), "")):
        raise ProfileError(f"{place}: `{optional}` has a default, which a batch cannot use; leave the default out")
    return tuple(parameters), batch


def _parameter(place: str, argument: str, annotation: ast.expr | None, default: bool) -> tuple[Parameter, bool]:
    """One argument, and whether it is a list of items. Raises ProfileError."""
    if argument not in FIELDS:
        hint = "; name its parts, as in `concept_name`" if argument == "concept" else ""
        raise ProfileError(
            f"{place}: `{argument}` is no field of a sample{hint}; the fields are {nearest_first(argument, FIELDS)} "
            "(anything else comes from the key `arguments`)"
        )
    types = FIELDS[argument].types
    wanted = " or ".join(f"`{one}`" for one in types) + ", or a list of that for a batch"
    if annotation is None:
        raise ProfileError(f"{place}: `{argument}` has no type; expected {wanted}")
    found = type_of(annotation)
    item = found.removeprefix("list[").removesuffix("]") if found not in types else found
    if item not in types:
        raise ProfileError(f"{place}: `{argument}` is annotated `{ast.unparse(annotation)}`; expected {wanted}")
    parameter = Parameter(argument, item, optional=default)
    if default and (parameter.is_picture or parameter.is_pictures):
        raise ProfileError(f"{place}: `{argument}` has a default, but pictures always come; leave the default out")
    return parameter, found not in types


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, *, skip_self: bool) -> dict[str, bool]:
    """Argument -> whether it has a default."""
    named = [*node.args.posonlyargs, *node.args.args]
    with_default = {one.arg for one in named[len(named) - len(node.args.defaults) :]}
    with_default |= {one.arg for one, default in zip(node.args.kwonlyargs, node.args.kw_defaults) if default}
    return {one.arg: one.arg in with_default for one in [*named[1 if skip_self else 0 :], *node.args.kwonlyargs]}


def _dataclass_fields(node: ast.ClassDef) -> dict[str, bool]:
    """What the constructor of a dataclass takes; nothing for another class."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return {}
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    return {one.target.id: one.value is not None for one in fields if isinstance(one.target, ast.Name)}


def _place(found: _Found) -> str:
    return f"{found.source.file}, line {found.node.lineno}"

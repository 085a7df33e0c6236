"""The failpoints that the code has: read from its source, so that none can be forgotten."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

import botocore.session
from botocore import xform_name

from sef import failpoints

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = [
    path
    for path in sorted([*(ROOT / "sef").rglob("*.py"), ROOT / "smart_emergency_fallback.py"])
    if "simulator" not in path.parts and path.name not in ("database.py", "failpoints.py")
]


@cache
def in_the_code() -> frozenset[str]:
    """The name of every point, each with its boundary."""
    names = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        names |= {f"{name}:{side}-commit" for name in _writes(path, tree) for side in SIDES}
        for name in (*_calls(tree), *_other_calls(tree)):
            names |= {f"{name}:{side}-call" for side in SIDES}
    return frozenset(names)


SIDES = ("before", "after")


def _writes(path: Path, tree: ast.Module) -> Iterator[str]:
    """The transactions of a module: what is handed to `Database.write`."""
    module = vars(import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)))
    codes = list(_codes(compile(path.read_text(), str(path), "exec")))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("database.write"):
            yield _name(node.args[0], codes, module)


def _name(work: ast.expr, codes: Sequence[CodeType], module: Mapping[str, Any]) -> str:
    if isinstance(work, ast.Name) and work.id in module:
        return failpoints.name_of(module[work.id])
    if isinstance(work, ast.Attribute):  # a method
        [code] = [c for c in codes if c.co_name == work.attr]
        return failpoints.name_of_code(code, module)
    assert isinstance(work, ast.Lambda | ast.Name), f"{ast.unparse(work)} has no name"
    wanted = work.id if isinstance(work, ast.Name) else "<lambda>"
    # A function stands before it is handed over, a lambda where that is done.
    found = [c for c in codes if c.co_name == wanted and c.co_firstlineno <= work.lineno]
    return failpoints.name_of_code(max(found, key=lambda c: c.co_firstlineno), module)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _calls(tree: ast.Module) -> Iterator[str]:
    """The operations of AWS that a module calls, by boto3's names for them."""
    operations = _operations()
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        method = node.func.attr
        if method in ("get_paginator", "get_waiter"):
            method = ast.literal_eval(node.args[0])
        if method in operations:
            yield operations[method]


@cache
def _operations() -> Mapping[str, str]:
    session = botocore.session.get_session()
    return {
        xform_name(operation): operation
        for service in ("ec2", "elbv2", "route53")
        for operation in session.get_service_model(service).operation_names
    }


def _other_calls(tree: ast.Module) -> Iterator[str]:
    """The calls to somebody else than AWS, by the names that a module gives them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.around":
            yield ast.literal_eval(node.args[0])

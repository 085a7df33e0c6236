"""The failpoints that the code has: read from its source, so that none can be forgotten."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
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
    """Name the transactions of a module: the functions handed to the database's `write` methods."""
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(
            r"database\.write(_shared)?$", ast.unparse(node.func)
        ):
            yield failpoints.name_of(_handed_over(node.args[0], module))


def _handed_over(work: ast.expr, module: ModuleType) -> Callable[..., Any]:
    """Return the function that an expression in a module stands for."""
    names = vars(module)
    if isinstance(work, ast.Name):
        found = names[work.id]
    else:
        assert isinstance(work, ast.Attribute), f"{ast.unparse(work)} has no name"
        assert isinstance(work.value, ast.Name), f"{ast.unparse(work)} has no name"
        if work.value.id == "self":
            [found] = [
                vars(cls)[work.attr]
                for cls in names.values()
                if isinstance(cls, type)
                and cls.__module__ == module.__name__
                and work.attr in vars(cls)
            ]
        else:
            found = getattr(names[work.value.id], work.attr)
    assert callable(found)
    return found  # type: ignore[no-any-return]


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
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.failpoint":
            yield ast.literal_eval(node.args[0])

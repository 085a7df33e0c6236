"""List the failpoints of the code: read them from its source, so that no test can miss one."""

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
SIDES = ("before", "after")


@cache
def all_failpoints() -> frozenset[str]:
    """Return the name of every failpoint, such as `RunInstances:before-call`."""
    names = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in _transactions(tree, module):
            names |= {f"{name}:{side}-commit" for side in SIDES}
        for name in (*_aws_calls(tree), *_other_calls(tree)):
            names |= {f"{name}:{side}-call" for side in SIDES}
    return frozenset(names)


def _transactions(tree: ast.Module, module: ModuleType) -> Iterator[str]:
    """Name the transactions of a module: the functions that it passes to `database.write`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(
            r"database\.write(_shared)?$", ast.unparse(node.func)
        ):
            yield failpoints.name_of(_function(ast.unparse(node.args[0]), module))


def _function(expression: str, module: ModuleType) -> Callable[..., Any]:
    """Return the function or method that an expression in a module stands for."""
    owner, _, name = expression.rpartition(".")
    if owner == "self":
        [function] = [
            vars(cls)[name]
            for cls in vars(module).values()
            if isinstance(cls, type) and cls.__module__ == module.__name__ and name in vars(cls)
        ]
    else:
        function = getattr(vars(module)[owner], name) if owner else vars(module)[name]
    assert callable(function)
    return function


def _aws_calls(tree: ast.Module) -> Iterator[str]:
    """Name the AWS operations that a module calls, as boto3 does."""
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
    """Return the operations that SEF can call, by the name of boto3's method."""
    session = botocore.session.get_session()
    return {
        xform_name(operation): operation
        for service in ("ec2", "elbv2", "route53")
        for operation in session.get_service_model(service).operation_names
    }


def _other_calls(tree: ast.Module) -> Iterator[str]:
    """Name the calls to receivers other than AWS; the code passes the names to `failpoint`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.failpoint":
            yield ast.literal_eval(node.args[0])

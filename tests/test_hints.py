"""Every public function of ours says what it takes and what it returns.

ruff's ANN001 and ANN201 say the same of private functions too, which are read with their callers.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# what stands for a program or package of others has their signatures
OTHERS = ("standalone", "stand_ins")
FILES = [
    path
    for package in ("duo_ext", "sedd_ext")
    for path in sorted((ROOT / package).rglob("*.py"))
    if not set(OTHERS) & set(path.parts)
]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(body, inside=""):
    """(name, function) of each public function and method; special methods are public."""
    for node in body:
        name = getattr(node, "name", "_")
        if name.startswith("_") and not name.endswith("__"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, f"{name}.")
        elif isinstance(node, Function):
            yield inside + name, node


def unsaid(function, method):
    """The names of a function's parameters without a type, and "return" if that has none."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    bound = method and not any(
        getattr(d, "id", "") == "staticmethod" for d in function.decorator_list
    )
    missing = [p.arg for p in parameters[bound:] if p.annotation is None]
    special = function.name.startswith("__")
    return missing + ["return"] * (function.returns is None and not special)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_function_has_types(path):
    found = {
        name: missing
        for name, function in public(ast.parse(path.read_text()).body)
        if (missing := unsaid(function, "." in name))
    }
    assert found == {}


def test_what_has_no_type_is_found():
    source = """
class A:
    def __init__(self, a, b: int): ...
    def f(self, *, c) -> int: ...
    @staticmethod
    def g(d): ...
    def _private(self, e): ...
def h(x: int, *args, **kwargs): ...
"""
    found = [(name, unsaid(f, "." in name)) for name, f in public(ast.parse(source).body)]
    assert found == [
        ("A.__init__", ["a"]),
        ("A.f", ["c"]),
        ("A.g", ["d", "return"]),
        ("h", ["return"]),
    ]

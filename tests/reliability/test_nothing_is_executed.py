"""No module of the program has a way to run what stands in a file, to open a connection, or to hand a name to a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for name in ("autoseg3d", "planners") for path in (ROOT / name).rglob("*.py"))

# Ways to run code that stands in a file, and ways out of the machine.
MODULES = {
    "pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "yaml", "runpy", "imp", "code", "pydoc",
    "urllib", "http", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "telnetlib", "xmlrpc", "webbrowser", "huggingface_hub",
}  # fmt: skip
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.hub.load",
    "expandvars",
    "os.path.expandvars",
    "import_module",
}
# Modules with a reason: locks name the machine that holds them; processes of our own are asked in pickles that they alone see.
ALLOWED = {("autoseg3d/files.py", "socket"), ("autoseg3d/workers.py", "multiprocessing.reduction")}
# Functions that run code unless they are told not to, and how they are told.
TOLD = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}


def named(node: ast.expr) -> str:
    """A call's function as it is written."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_a_module_runs_nothing_and_connects_to_nothing(path: Path) -> None:
    tree, name = ast.parse(path.read_text()), path.relative_to(ROOT).as_posix()
    found = {module for module in imports(tree) if module.split(".")[0] in MODULES | {"socket"} or module == "multiprocessing.reduction"}
    assert {module for module in found if (name, module) not in ALLOWED} == set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function, told = named(call.func), {key.arg: ast.unparse(key.value) for key in call.keywords}
        assert function not in CALLS, f"line {call.lineno}"
        assert told.get("shell", "False") == "False", f"line {call.lineno}"
        if function in TOLD:
            option, value = TOLD[function]
            assert told.get(option) == str(value) or (function != "torch.load" and option not in told), f"line {call.lineno}"

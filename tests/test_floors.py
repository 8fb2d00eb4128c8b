"""Imports go strictly down the floors of the house; siblings on one floor do not know each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

FLOORS = {
    "planners": 0,
    "autoseg3d": 1,  # only the version and lazy names
    "autoseg3d.errors": 1,
    "autoseg3d.geometry": 2,
    "autoseg3d.files": 2,
    "autoseg3d.workers": 2,
    "autoseg3d.allocator": 2,
    "autoseg3d.devices": 2,
    "autoseg3d.plugins": 2,
    "autoseg3d.case": 3,
    "autoseg3d.io": 4,
    "autoseg3d.ops": 4,
    "autoseg3d.networks": 4,
    "autoseg3d.losses": 4,
    "autoseg3d.metrics": 4,
    "autoseg3d.augment": 4,
    "autoseg3d.sliding_window": 5,
    "autoseg3d.patches": 5,
    "autoseg3d.fingerprinting": 5,
    "autoseg3d.preprocessing": 5,
    "autoseg3d.package": 5,
    "autoseg3d.run": 5,
    "autoseg3d.cost": 5,
    "autoseg3d.pictures": 5,
    "autoseg3d.pages": 5,
    "autoseg3d.phantom": 5,
    "autoseg3d.prediction": 6,
    "autoseg3d.evaluation": 6,
    "autoseg3d.import_nnunet": 6,
    "autoseg3d.export": 7,
    "autoseg3d.training": 7,
    "autoseg3d.select": 8,
    "autoseg3d.report": 8,
    "autoseg3d.doctor": 8,
    "autoseg3d.api": 9,
    "autoseg3d.demo": 10,
    "autoseg3d.cli": 11,
    "autoseg3d.__main__": 12,
}
PURE_THIRD_PARTY = {"numpy", "pydantic"}
IMPURE_STDLIB = {
    "os", "io", "pathlib", "shutil", "subprocess", "socket", "tempfile", "glob", "importlib", "time", "datetime", "random",
}  # fmt: skip


def _room(module: str) -> str | None:
    return max((room for room in FLOORS if module == room or module.startswith(room + ".")), key=len, default=None)


def _imports(path: Path, package: list[str]) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def faults(root: Path) -> list[str]:
    """Every import that goes up or sideways, and every impure thing in planners/, as 'file:line: what'."""
    found = []
    for path in sorted(p for top in ("planners", "autoseg3d") for p in (root / top).rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        package = parts[:-1]
        module = ".".join(package if parts[-1] == "__init__" else parts)
        own = _room(module)
        assert own is not None
        if own == "autoseg3d" and module != "autoseg3d":
            found.append(f"{path.relative_to(root)}: give {module} a floor")
            continue
        for line, target in _imports(path, package):
            where = f"{path.relative_to(root)}:{line}: {module}"
            top = target.split(".")[0]
            if own == "planners" and (top in IMPURE_STDLIB or not (top == "planners" or top in PURE_THIRD_PARTY or _is_stdlib(top))):
                found.append(f"{where} is pure and may not import {target}")
            theirs = _room(target)
            if theirs is not None and theirs not in (own, "autoseg3d") and FLOORS[theirs] >= FLOORS[own]:
                found.append(f"{where} (floor {FLOORS[own]}) imports {target} (floor {FLOORS[theirs]})")
    return found


def _is_stdlib(name: str) -> bool:
    import sys

    return name in sys.stdlib_module_names


def test_imports_go_down(repository_root: Path) -> None:
    assert faults(repository_root) == []


def test_a_wrong_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "planners").mkdir()
    (tmp_path / "planners" / "bad.py").write_text("import torch\ndef f():\n    from autoseg3d import files\n")
    (tmp_path / "autoseg3d").mkdir()
    (tmp_path / "autoseg3d" / "errors.py").write_text("from autoseg3d.cli import main\n")
    (tmp_path / "autoseg3d" / "stray.py").write_text("")
    text = "\n".join(faults(tmp_path))
    assert "may not import torch" in text
    assert "autoseg3d.files" in text
    assert "imports autoseg3d.cli.main" in text
    assert "give autoseg3d.stray a floor" in text

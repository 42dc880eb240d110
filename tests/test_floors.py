"""Imports point down: data flows one way, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import symconv

ROOT = Path(symconv.__file__).parent
FLOORS = {
    "errors": 0,
    "extras": 0,
    "lattice": 0,
    "drawing": 1,
    "structure": 1,
    "transforms": 1,
    "kernels": 2,
    "functional": 2,
    "report": 2,
    "auditing": 3,
    "nn": 3,
    "ragged": 3,
    "testing": 4,
    "models": 4,
    "data": 4,
    "train": 4,
    "export": 4,
    "cost": 4,
    "conversion": 4,
    "comparison": 5,
    "cli": 6,
    "__main__": 7,
}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(source: str) -> set[str]:
    """Parts of symconv that a file imports when it runs, type-checking imports aside."""
    tree = ast.parse(source)
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    names = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = {name.split(".")[1] for name in names if name.startswith("symconv.")}
    return {part for part in parts if part in FLOORS}


SOURCES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = part_of(path)
    assert here in FLOORS, f"{here} stands on no floor yet: give it one"
    above = {part for part in imported_parts(path.read_text()) if FLOORS[part] > FLOORS[here]}
    assert not above, f"{here} (floor {FLOORS[here]}) imports {above} from above"


def test_an_import_that_points_up_would_be_seen():
    source = "from symconv import nn\nimport symconv.comparison\nfrom symconv.cli import run\n"
    assert imported_parts(source) == {"nn", "comparison", "cli"}
    assert imported_parts("if TYPE_CHECKING:\n    from symconv import nn\n") == set()


def test_the_lattice_knows_no_torch():
    for path in (ROOT / "lattice").glob("*.py"):
        assert "torch" not in {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in [getattr(node, "module", None) or node.names[0].name]
        }, path


def loaded_by(code: str) -> set[str]:
    program = f"import sys; {code}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_counting_loads_no_torch():
    light = loaded_by("import symconv as sc; sc.Structure.dense(4, 3).parameters")
    assert "torch" not in light
    assert "torch" in loaded_by("import symconv as sc; sc.nn")


def test_every_public_name_resolves():
    for name in symconv.__all__:
        assert getattr(symconv, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        symconv.no_such_name  # noqa: B018

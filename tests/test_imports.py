"""The package is built in layers: nothing imports a layer above its own."""

import ast
from pathlib import Path

import pytest

import anomalib_students

PACKAGE = Path(anomalib_students.__file__).parent
LAYERS = (
    {"false_alarms", "files", "image_files", "muon", "trainings", "user_errors", "wrappers"},
    {"line", "networks"},
    {"data"},
    {"export"},
    {"teacher"},
    {"model"},
    {"report"},
    {"cluster"},
    {"cli", "plugin"},
)
"""Folders and modules, from the lowest layer to the highest."""
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """Folders and modules at the top of the package that a module imports."""
    package = ("anomalib_students", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            source = ".".join([*parents, *filter(None, [node.module])])
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("anomalib_students.")}
    return found & LEVELS.keys()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_a_layer_above_its_own(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer != "__init__":
        assert layer in LEVELS
        assert {name for name in imported(path) if LEVELS[name] > LEVELS[layer]} == set()


def test_the_package_does_not_need_the_reproduction():
    assert not [path for path in PACKAGE.rglob("*.py") if "import reproduction" in path.read_text()]
    assert not [path for path in PACKAGE.rglob("*.py") if "from reproduction" in path.read_text()]

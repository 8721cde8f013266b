"""Tests that the package is built in layers: nothing imports upwards, and no imports form a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import anomalib_students

PACKAGE = Path(anomalib_students.__file__).parent
LAYERS = (
    {"files", "file_format", "image_files", "user_errors"},
    {"networks"},
    {"mends"},
    {"data", "engine"},
    {"export"},
    {"teacher"},
    {"model"},
    {"report"},
    {"runs", "cluster"},
    {"paper"},
    {"quickstart", "cli", "plugin"},
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str, nodes: list[ast.stmt]) -> set[str]:
    """Modules of the package that import statements name."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            found = [f"{source}.{alias.name}" for alias in node.names]
            names.update(name if name in MODULES else source for name in found)
    return (names & MODULES.keys()) - {module}


def layer(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module.split(".")[1] in names)


def test_each_part_of_the_package_has_a_layer() -> None:
    parts = {name.split(".")[1] for name in MODULES if "." in name}
    assert parts == set().union(*LAYERS)


def test_no_module_imports_upwards_anywhere() -> None:
    upwards = {
        (module, name)
        for module, path in MODULES.items()
        for name in imported(
            module, [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.stmt)]
        )
        if "." in module and "." in name and layer(name) > layer(module)
    }
    assert not upwards


def test_modules_that_import_one_another_when_loaded_form_no_circle() -> None:
    graph = {module: imported(module, ast.parse(path.read_text()).body) for module, path in MODULES.items()}
    list(TopologicalSorter({module: names - {"anomalib_students"} for module, names in graph.items()}).static_order())

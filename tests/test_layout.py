"""Imports go down the floors only, and the package starts quickly because torch waits."""

import ast
from pathlib import Path

import svda_analysis

PACKAGE = Path(svda_analysis.__file__).parent
FLOORS = [
    {"errors"},
    {"results", "model"},
    {"indicators", "data", "compare", "plots", "matching"},
    {"checkpoint", "capture", "report"},
    {"specs", "attribute", "claims"},
    {"sources"},
    {"analyze", "faithfulness", "compress"},
    {"train", "maps"},
    {"manifest", "verify"},
    {"paper", "compression_report"},
    {"cli"},
]
WITHOUT_TORCH = {"errors", "results", "compare", "plots", "matching", "report", "claims", "cli"}


def imports(module, top_level_only=False):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_module_stands_on_a_floor():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set.union(*FLOORS)


def test_imports_go_down_only():
    floor = {module: at for at, modules in enumerate(FLOORS) for module in modules}
    for module, at in floor.items():
        for name in imports(module):
            target = name.removeprefix("svda_analysis.").split(".")[0]
            if name.startswith("svda_analysis.") and target in floor:
                assert floor[target] < at, f"{module} imports {target}"


def test_what_needs_no_torch_imports_none():
    for module in WITHOUT_TORCH:
        names = {name.split(".")[0] for name in imports(module, top_level_only=True)}
        assert not names & {"torch", "torchvision", "captum", "accelerate"}, module

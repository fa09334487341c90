"""How the package is laid out: imports go down the floors only, one name is one thing, and torch waits."""

import ast
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import svda_analysis

PACKAGE = Path(svda_analysis.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
FLOORS = [  # from the ground up; a wing (a folder) stands on one floor as a whole
    {"errors"},
    {"vocabulary", "stats", "kinds", "formatting", "writing", "bars"},
    {"frames", "document", "tokens"},
    {"history_rows", "draws", "team"},
    {"verdicts", "earlier", "source_numbers", "alarms", "sinks"},
    {"comparison"},
    {"results"},
    {"data", "attention", "figures", "weight_files", "places", "forward"},
    {"items", "meanings", "state_dicts", "image_text", "model_folders"},
    {"compact", "render", "products", "trails", "score_operator"},
    {"sections"},
    {"model", "indicators", "tracker", "origins"},
    {"checkpoint", "calls", "layer_inputs", "matching", "representations", "source_indicators"},
    {"tap"},
    {"soundness", "options"},
    {"answers", "maps", "recipe", "penalties", "rides"},
    {"map_reader", "layer_map", "tallies"},
    {"processors", "subject", "streaming", "resuming", "processes", "undisturbed"},
    {"monitor"},
    {"callbacks"},
    {"libraries", "stand_in", "classifiers"},
    {"hosts"},
    {"converted"},
    {"specs", "fillers", "head_rows"},
    {"sources", "attribution", "redrawing", "training_data"},
    {
        "perturbation",
        "map_comparison",
        "directions",
        "explanations",
        "example_maps",
        "training",
        "conversion",
        "late_features",
    },
    {"trial", "convert_files", "late_blocks"},
    {"metrics"},
    {"faithful", "cache", "single"},
    {"analysis"},
    {"compression", "study"},
    {"reports", "gallery"},
    {"typesetting"},
    {"cli"},
    {"__main__"},
]
FLOOR = {wing: at for at, wings in enumerate(FLOORS) for wing in wings}
WITHOUT_TORCH = {
    *("errors", "vocabulary", "verdicts", "earlier", "stats", "kinds", "formatting", "frames", "document", "tokens"),
    *("comparison", "results", "matching", "representations", "figures", "render", "sections", "cli"),
    *("data.catalog", "data.preprocessing"),
    *("alarms", "sinks", "bars"),
    *(
        "study.claims",
        "study.dials",
        "study.findings",
        "study.frontier",
        "study.tables",
        "study.sections",
        "study.result",
        "study.plain_words",
        "reports",
        "gallery",
        "typesetting",
    ),
    *("compression.keep", "compression.report", "compression.result", "compression.sections", "compression.tables"),
}
TORCH = {"torch", "torchvision", "captum", "accelerate"}
LONGEST_FUNCTION, LONGEST_FILE = 60, 450
WITHOUT_TESTS_OF_THEIR_OWN = {
    *("__main__", "cli.__main__"),  # they call main, which tests of the command line run
    *("__init__", "compression", "data", "figures", "render", "study", "sections"),  # they name what others define
}


def tree(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module, top_level_only=False):
    """Dotted names that a module imports; inside of ``if TYPE_CHECKING`` is not counted as the top level."""
    found, parsed = set(), tree(module)
    for node in parsed.body if top_level_only else ast.walk(parsed):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def own_imports(module):
    """The modules of the package that a module imports."""
    names = {name.removeprefix("svda_analysis.") for name in imports(module) if name.startswith("svda_analysis.")}
    return {name for name in names if name in MODULES}


def wing(module):
    return module.partition(".")[0]


def functions():
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef):
                yield module, node


def test_every_module_stands_on_a_floor():
    assert {wing(module) for module in MODULES if module != "__init__"} == set(FLOOR)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"__init__"}))
def test_imports_go_down_only(module):
    for other in own_imports(module):
        if wing(other) != wing(module):
            assert FLOOR[wing(other)] < FLOOR[wing(module)], f"{module} imports {other}"


def test_every_module_has_its_test_file():
    present = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    lacking = {module for module in MODULES if f"test_{module.replace('.', '_')}" not in present}
    assert lacking == WITHOUT_TESTS_OF_THEIR_OWN


def test_no_imports_go_round_in_a_circle():
    waiting = {module: own_imports(module) - {module, wing(module)} for module in MODULES}
    while ready := {module for module, needs in waiting.items() if not needs & waiting.keys()}:
        for module in ready:
            del waiting[module]
    assert not waiting


def test_what_needs_no_torch_imports_none():
    for module in MODULES:
        if {module, wing(module)} & WITHOUT_TORCH:
            assert not {name.split(".")[0] for name in imports(module, top_level_only=True)} & TORCH, module


def names_defined(node):
    """What a statement at the top of a module names; a library that is imported when it is used is none of ours."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("lazy_loader.load("):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_a_name_is_defined_in_one_module_alone():
    homes = {}
    for module in MODULES:
        for name in {name for node in tree(module).body for name in names_defined(node)} - {"__all__"}:
            homes.setdefault(name, []).append(module)
    assert not {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_no_module_hides_a_function_of_its_name():
    assert set(svda_analysis.__all__) & {wing(module) for module in MODULES} == {"figures"}


def test_functions_and_files_are_short():
    long = [
        f"{module}.{node.name}: {node.end_lineno - node.lineno + 1}"
        for module, node in functions()
        if node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not long
    files = {module: path.read_text(encoding="utf-8").count("\n") for module, path in MODULES.items()}
    assert not {module: lines for module, lines in files.items() if lines > LONGEST_FILE}


def test_nothing_is_asserted_and_everything_public_is_explained():
    for module in MODULES:
        assert not [node for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)], module
        assert ast.get_docstring(tree(module)), module
    for module, node in functions():
        if not node.name.startswith("_") and node.end_lineno - node.lineno > 6 and node.col_offset == 0:
            assert ast.get_docstring(node), f"{module}.{node.name}"


def resolves(name):
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return False
    return True


def leads_somewhere(reference, module, text):
    """Whether a name in a docstring of ``module`` is one of the package, of the module, or of a class in it."""
    here = f"svda_analysis.{module}"
    classes = re.findall(r"^class (\w+)", text, re.M)
    names = [reference, f"{here}.{reference}", *(f"{here}.{cls}.{reference}" for cls in classes)]
    return f"self.{reference}" in text or any(resolves(name) for name in names)


def test_what_docstrings_refer_to_is_there():
    lost = []
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        found = re.findall(r":(?:func|class|meth|data|mod|attr):`~?([^`]+)`", text)
        lost += [f"{module}: {name}" for name in found if not leads_somewhere(name, module, text)]
    assert not lost


@pytest.mark.parametrize("names", ["svda_analysis", "svda_analysis.cli", "svda_analysis.data.catalog"])
def test_torch_waits_until_it_is_needed(names):
    code = f"import sys, {names}; print(sorted({TORCH!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_module_of_a_functions_kin_is_the_module():
    import svda_analysis.analysis as analysis
    import svda_analysis.comparison as comparison
    import svda_analysis.tap as tap

    assert svda_analysis.analyze is analysis.analyze
    assert svda_analysis.compare is comparison.compare
    assert svda_analysis.capture is tap.capture

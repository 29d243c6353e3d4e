"""Which folder may import which, and what `import jaxdarts` loads. Oracle: the syntax trees, a
fresh process.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IDEA = (
    "search",
    "algorithms",
    "relax",
    "hypergrad",
    "perturb",
    "penalty",
    "derive",
    "objectives",
    "once",
)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "jaxdarts").rglob("*.py")
}


def imports(module: str) -> set[str]:
    """The modules of this package that a module imports when it is imported."""
    found = set()
    for node in ast.parse(MODULES[module].read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "jaxdarts"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxdarts":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


GRAPH = {module: imports(module) for module in MODULES}


def part(module: str) -> str:
    """The folder or module at the top: "nn" of jaxdarts.nn.ops."""
    return (module.split(".") + [""])[1]


def allowed(importer: str, imported: str) -> bool:
    a, b = part(importer), part(imported)
    if a in ("types", "files", "parallel"):
        return b == "types"
    if a == "genotypes":
        return b in ("genotypes", "types")
    if a == "nn":
        return b in ("nn", "space", "genotypes", "types")
    if a in IDEA and b in ("nn", "data", "runs", "report"):
        return False
    if b == "commands":
        between = {
            importer.split(".")[2:3][0] if a == "commands" and importer.count(".") > 1 else "",
            imported.split(".")[2],
        }
        return a in ("commands", "__main__") and between != {"search", "evaluate"}
    return b not in ("runs", "report") or a in ("runs", "report", "commands", "__main__")


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_module_imports_only_what_its_folder_may(module):
    assert not [imported for imported in GRAPH[module] if not allowed(module, imported)]


def test_the_rules_refuse_what_they_should():
    assert not allowed("jaxdarts.search", "jaxdarts.nn.ops") and not allowed(
        "jaxdarts.nn.ops", "jaxdarts.data.images"
    )
    assert not allowed("jaxdarts.commands.search.images", "jaxdarts.commands.evaluate.recipes")
    assert not allowed("jaxdarts.runs.loop", "jaxdarts.commands.score") and allowed(
        "jaxdarts.commands.enas", "jaxdarts.runs"
    )


def test_no_imports_go_round_in_a_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for imported in GRAPH.get(module, ()):
                visit(imported, (*path, module))
            done.add(module)

    for module in GRAPH:
        visit(module, ())


def test_inside_the_package_nobody_says_jd():
    def says_so(path: Path) -> bool:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        return any(
            isinstance(node, ast.Import) and any(a.asname == "jd" for a in node.names)
            for node in nodes
        )

    assert not [module for module, path in MODULES.items() if says_so(path)]


def test_import_jaxdarts_loads_no_programs_and_nothing_slow():
    code = "import sys, jaxdarts; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    slow = (
        "jaxdarts.commands",
        "jaxdarts.report",
        "jaxdarts.runs",
        "scipy.stats",
        "tensorflow_datasets",
        "pyarrow",
        "sklearn",
    )
    assert not [module for module in loaded if module.startswith(slow)]

"""Which folder may import which, and what `import jaxdarts` loads. Oracle: the syntax trees, a
fresh process.
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IDEA = (
    "bilevel",
    "algorithms",
    "relax",
    "hypergrad",
    "perturb",
    "penalty",
    "derive",
    "descent",
    "objectives",
    "once",
)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "jaxdarts").rglob("*.py")
}


def imports(module: str) -> set[str]:
    """The modules of this package that a module imports when it is imported."""
    names_used = set()
    for node in ast.parse(MODULES[module].read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names_used |= {
                alias.name for alias in node.names if alias.name.split(".")[0] == "jaxdarts"
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxdarts":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            names_used |= {name if name in MODULES else node.module for name in names}
    return names_used


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


def test_the_package_offers_two_functions_of_the_commands():
    """They are imported when they are first used: `import jaxdarts` alone loads no command."""
    package = importlib.import_module("jaxdarts")
    from_commands = {
        name: module
        for name, module in package._MODULE_OF.items()
        if part(f"jaxdarts.{module}") == "commands"
    }
    assert from_commands == {"search": "commands.arrays", "train": "commands.arrays"}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_module_imports_only_what_its_folder_may(module):
    assert not [imported for imported in GRAPH[module] if not allowed(module, imported)]


def test_the_rules_refuse_what_they_should():
    assert not allowed("jaxdarts.bilevel", "jaxdarts.nn.ops") and not allowed(
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


SLOW = tuple(
    "PIL distributed google.protobuf jinja2 orbax pyarrow scipy sklearn tensorboardX tensorflow"
    " tensorflow_datasets".split()
)
FRAMEWORKS = ("flax", "jax", "jaxlib", "numpy", "optax", "rich", "tyro")


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has after some code."""
    code = f"import sys; {code}; print('\\n', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())


def of(modules: set[str], packages: tuple[str, ...]) -> list[str]:
    return [m for m in modules for p in packages if m == p or m.startswith(p + ".")]


def test_import_jaxdarts_loads_nothing_slow():
    modules = loaded("import jaxdarts")
    assert not of(modules, (*SLOW, *FRAMEWORKS))
    assert sorted(m for m in modules if m.startswith("jaxdarts")) == ["jaxdarts"]


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_the_list_of_commands_loads_nothing_slow(flag):
    code = f"sys.argv = ['jaxdarts', '{flag}']; from jaxdarts.__main__ import main; main()"
    assert not of(loaded(code), (*SLOW, *FRAMEWORKS))


def test_the_flags_of_search_load_no_package_that_only_a_run_needs():
    code = (
        "sys.argv = ['jaxdarts', 'search', '--help'];"
        "from jaxdarts.__main__ import main; import contextlib;"
        "exec('with contextlib.suppress(SystemExit): main()')"
    )
    needless = set(SLOW) - {"google.protobuf"}
    assert not of(loaded(code), tuple(needless))


def test_a_data_set_in_memory_needs_no_tensorflow_datasets():
    modules = loaded("from jaxdarts.data import images; images.load('digits')")
    assert not of(modules, ("pyarrow", "tensorflow", "tensorflow_datasets"))


def test_what_type_checkers_see_of_the_package_is_what_it_has():
    tree = ast.parse(MODULES["jaxdarts"].read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.asname: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    package = importlib.import_module("jaxdarts")
    names = {*package._MODULES, *package._MODULE_OF}
    assert set(declared) == names and names <= set(dir(package))
    for name, (module, original) in declared.items():
        home = importlib.import_module(module)
        assert getattr(package, name) is getattr(home, original)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing

"""A module imports only from lower layers: read from the imports themselves, so that no test has to run them.

`spaces/` sees only `core` and `nn`, and what of `core` the facade hands on; the engine finds the families by their
folder and imports none of them.
"""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from searchkit import _HOMES
from searchkit.data.problems import problems, selectable
from searchkit.data.source import Source

ROOT = Path(__file__).parents[1]

ROWS = (
    ("core",),
    ("nn", "data", "config"),
    ("onnx",),
    ("train", "machine"),
    ("tasks",),
    ("run", "context"),
    ("stages", "search"),
    ("evaluation", "testing"),
    ("report", "own", "families", "lifecycle", "workflow"),
    ("api",),
    ("cli", "__main__"),
)
"""The folders and modules of searchkit from the lowest row to the highest. Each imports from its own row and below."""

LAYERS = {f"searchkit.{name}": row for row, names in enumerate(ROWS) for name in names}
TOP = len(ROWS)  # the entry at the top of the repository
FOR_FAMILIES = ("searchkit.core", "searchkit.nn")
FACADE = "searchkit"  # hands the public names on, and loads each when it is used


def imports(text: str, package: str) -> list[str]:
    """Every module that the text imports, in functions and under TYPE_CHECKING too, by its full name."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parent, *([node.module] if node.module else [])])
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def layer(module: str) -> int:
    """Of the longest known prefix."""
    parts = module.split(".")
    for end in range(len(parts), 1, -1):
        if (known := LAYERS.get(".".join(parts[:end]))) is not None:
            return known
    return 0 if module in ("searchkit", "searchkit.__version__") else TOP


def at_home(name: str) -> str:
    """A public name of the facade as the module has it that it is loaded from; any other name as it is."""
    home = _HOMES.get(name.removeprefix(f"{FACADE}."))
    return f"{FACADE}.{home}" if home else name


def violations(path: Path, text: str) -> list[str]:
    """Sentences; empty where the file keeps to its layer."""
    relative = path.relative_to(ROOT).with_suffix("")
    module = ".".join(relative.parts).removesuffix(".__init__")
    package = module if path.name == "__init__.py" else ".".join(relative.parts[:-1])
    ours = [name for name in imports(text, package) if name.split(".")[0] in ("searchkit", "spaces", "cli")]
    if module.split(".")[0] == "spaces":
        bad = [n for n in ours if not at_home(n).startswith(FOR_FAMILIES)]
        return [f"{module} imports {n}: a family sees core and nn alone" for n in bad]
    row = LAYERS["searchkit.api"] if module == FACADE else layer(module)
    bad = [n for n in ours if n.split(".")[0] != "searchkit" or layer(n) > row]
    return [f"{module} (layer {layer(module)}) imports {n} (layer {layer(n)})" for n in bad]


def sources() -> list[Path]:
    found = [p for folder in ("searchkit", "spaces") for p in sorted((ROOT / folder).rglob("*.py"))]
    return [p for p in found if "bundle" not in p.parts]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "planted"),
    [
        ("searchkit/train.py", "from searchkit.run import Run"),
        ("searchkit/train.py", "def f():\n    import searchkit.search.sampler"),
        ("searchkit/core/space.py", "from searchkit import nn"),
        ("searchkit/core/space.py", "from .. import nn"),
        ("searchkit/tasks/modalities/image.py", "from ...stages.prune import Prune"),
        ("searchkit/stages/prune.py", "from searchkit.evaluation.evidence import collect"),
        ("searchkit/evaluation/evidence.py", "from searchkit import report"),
        ("searchkit/core/quantities.py", "from searchkit.run import Run"),
        ("searchkit/onnx/int8.py", "from searchkit.stages.quantize import Quantize"),
        ("searchkit/core/space_file.py", "from searchkit.testing.families import run_checks"),
        ("searchkit/testing/tasks.py", "from searchkit import workflow"),
        ("searchkit/workflow.py", "from spaces.cnn import SPACE"),
        ("searchkit/cli/console.py", "import cli"),
        ("searchkit/api/runs.py", "from searchkit.cli.console import Console"),
        ("searchkit/report/write.py", "from searchkit.api.result import Result"),
        ("searchkit/__init__.py", "from searchkit.cli.app import main"),
        ("searchkit/search/cost_model.py", "from spaces.mlp import SPACE"),
        ("searchkit/search/cost_model.py", "import cli"),
        ("spaces/mlp.py", "from searchkit.tasks.registry import load"),
        ("spaces/mlp.py", "from searchkit.train import fit"),
        ("spaces/mlp.py", "from searchkit import Prune"),
        ("spaces/mlp.py", "from spaces.cnn import Arch"),
    ],
)
def test_a_planted_upward_import_is_caught(file: str, planted: str) -> None:
    path = ROOT / file
    text = path.read_text(encoding="utf-8")
    assert violations(path, text) == []
    assert len(violations(path, text + "\n\n" + planted + "\n")) == 1


def test_every_module_has_a_layer() -> None:
    """A new module says where it belongs: it is not taken for a part of the command line in silence."""
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in sources()]
    assert [m for m in modules if layer(m) == TOP and m.split(".")[0] != "spaces"] == []


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_names_no_family(path: Path) -> None:
    """No comparison with a family's name outside of its own file."""
    if path.parts[-2] == "spaces":
        return
    families = {p.stem for p in (ROOT / "spaces").glob("*.py") if not p.stem.startswith("_")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            named = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
            assert not named & families, f"line {node.lineno} compares with a family's name"


PROBLEMS = set(problems())
FIELDS = {field.name for field in fields(Source)}
"""A key of a dictionary of these, "anomaly", is a problem's name too."""

OUTPUT_NAMES = ROOT / "searchkit" / "core" / "data_spec.py"
"""Tells outputs of a network apart by their names, of which one, "reconstruction", a problem has too."""


def of_problems(text: str) -> bool:
    """Whether a module makes tasks: it may name the problems that it has or hands its data to."""
    return any(f"\n{table} = " in text for table in ("PROBLEMS", "EMBEDDED", "SCHEMES"))


def problems_named(text: str) -> list[str]:
    """Where a module looks a problem up by its name: in a comparison, a `case`, or the keys of a dictionary."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            values = list(ast.walk(node))
        elif isinstance(node, ast.Dict):
            values = [key for key in node.keys if isinstance(key, ast.Constant) and key.value not in FIELDS]
        else:
            continue
        constants = {value.value for value in values if isinstance(value, ast.Constant)}
        found += [f"line {node.lineno} names {name!r}" for name in sorted(constants & PROBLEMS)]
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_names_no_problem(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path != OUTPUT_NAMES and not of_problems(text):
        assert problems_named(text) == []


@pytest.mark.parametrize("template", sorted((ROOT / "searchkit").rglob("*.j2")), ids=lambda p: p.name)
def test_no_template_names_a_problem(template: Path) -> None:
    quoted = set(re.findall(r"""["'](\w+)["']""", template.read_text(encoding="utf-8")))
    assert quoted & set(selectable()) == set()  # "control" is also what a training without a teacher is called


def test_a_planted_problem_is_caught() -> None:
    for planted in ('kind == "ordinal"', 'kind in ("x", "regression")', '{"language": 1}[kind]'):
        assert len(problems_named(f"found = {planted}")) == 1
    assert len(problems_named('match kind:\n    case "anomaly":\n        pass')) == 1


def circle(imported: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a loop; [] where none do. imported: by module, also in functions."""
    done: set[str] = set()

    def loop_from(module: str, above: list[str]) -> list[str]:
        if module in above:
            return [*above[above.index(module) :], module]
        if module in done:
            return []
        for other in sorted(imported[module]):
            if found := loop_from(other, [*above, module]):
                return found
        done.add(module)
        return []

    return next((found for module in imported if (found := loop_from(module, []))), [])


def imports_of_all() -> dict[str, set[str]]:
    paths = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in sources()}
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        named = imports(path.read_text(encoding="utf-8"), package)
        found[module] = {name if name in paths else name.rpartition(".")[0] for name in named} & paths.keys()
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    """A package and what is in it count as one another's: its __init__ hands names on."""
    imported = {
        module: {o for o in others if not module.startswith(f"{o}.")} for module, others in imports_of_all().items()
    }
    assert circle(imported) == []
    imported["searchkit.run"] = imported["searchkit.run"] | {"searchkit.context"}
    assert {"searchkit.run", "searchkit.context"} <= set(circle(imported))


def test_packages_hold_a_docstring_and_no_imports() -> None:
    """A name that a package hands on makes every part of it import every other one."""
    for path in sorted((ROOT / "searchkit").rglob("__init__.py")):
        if path.parent == ROOT / "searchkit":
            continue  # the Python API, which imports when a name is asked for
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr], f"{path.relative_to(ROOT)} holds more than its docstring"

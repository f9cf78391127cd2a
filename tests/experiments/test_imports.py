"""Who may import whom: the library knows no experiment, the machinery no question, and no two modules each other."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest
from small_runs import ROOT

SCRIPTS = {f"experiments.{path.stem}" for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for folder in ("segjax", "experiments") for path in (ROOT / folder).rglob("*.py")}


@cache
def imports(name):
    """Every module that a module imports, also inside of a function; of ours, the file that is meant."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {other if other in FILES else node.module for other in whole}
    return found


def within(name, package):
    return f"{name}.".startswith(f"{package}.")


def importers(package, among):
    return {name for name in FILES if within(name, among) and any(within(other, package) for other in imports(name))}


def test_there_is_something_to_look_at():
    assert len(SCRIPTS) > 10
    assert "experiments.compare_losses" in SCRIPTS
    assert "experiments.lab.runs" in imports("experiments.lab.train")
    assert "segjax.metrics" in imports("experiments.lab.runs")
    assert importers("segjax", "experiments.lab")


def test_the_library_knows_no_experiment():
    assert importers("experiments", "segjax") == set()


def test_only_its_plots_need_matplotlib():
    assert importers("matplotlib", "segjax") == {"segjax.plotting"}


@pytest.mark.parametrize("package", ["tyro", "rich", "PIL"])
def test_the_library_needs_nothing_of_the_commands(package):
    assert importers(package, "segjax") == set()
    assert importers(package, "experiments")


@pytest.mark.parametrize("folder", ["lab", "bench", "notebook"])
def test_machinery_knows_no_script(folder):
    known = {name: imports(name) & SCRIPTS for name in FILES if within(name, f"experiments.{folder}")}
    assert len(known) > 1
    assert {name: scripts for name, scripts in known.items() if scripts} == {}


def test_no_script_knows_another():
    assert {name: imports(name) & SCRIPTS for name in SCRIPTS if imports(name) & SCRIPTS} == {}


def test_no_modules_import_each_other():
    # A package imports its modules, and they may name it.
    graph = {name: (imports(name) & FILES.keys()) - {name, "segjax"} for name in FILES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))

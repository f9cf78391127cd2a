"""Who may import whom: library, lab, wings, questions; nobody imports upward, and no two modules each other."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest
from small_runs import ROOT

# Of the lab: names, import_paths, runs, options, folder, log, workers, question.
FLOORS = 4
WINGS = ("optimizers", "pictures", "timed", "bench", "notebook")
SCRIPTS = {f"experiments.{path.stem}" for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for folder in ("segjax", "experiments") for path in (ROOT / folder).rglob("*.py")}


@cache
def imports(name):
    """Every module that a module imports, also inside of a function; of ours, the file that is meant."""
    imported = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {other if other in FILES else node.module for other in whole}
    return imported


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
    assert importers("matplotlib", "segjax") == {"segjax.plotting", "segjax._figures"}


@pytest.mark.parametrize("package", ["tyro", "rich", "PIL"])
def test_the_library_needs_nothing_of_the_commands(package):
    assert importers(package, "segjax") == set()
    assert importers(package, "experiments")


@pytest.mark.parametrize("folder", ["lab", *WINGS])
def test_the_lab_and_the_wings_know_no_script(folder):
    modules = [name for name in FILES if within(name, f"experiments.{folder}")]
    assert len(modules) > 1
    assert {name: imports(name) & SCRIPTS for name in modules if imports(name) & SCRIPTS} == {}


def test_every_folder_is_the_lab_or_a_wing():
    folders = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
    assert folders == {"lab", *WINGS}


@pytest.mark.parametrize("wing", WINGS)
def test_the_lab_knows_no_wing(wing):
    assert importers(f"experiments.{wing}", "experiments.lab") == set()


def test_the_lab_has_few_floors():
    """A module stands one floor above the highest module that it imports; tables and helpers stand on the first."""
    lab = {name for name in FILES if within(name, "experiments.lab") and name != "experiments.lab"}
    floors = {}
    for name in TopologicalSorter({name: imports(name) & lab for name in lab}).static_order():
        floors[name] = 1 + max((floors[other] for other in imports(name) & lab), default=0)
    by_floor = sorted((floor, name.rpartition(".")[2]) for name, floor in floors.items())
    assert max(floors.values()) <= FLOORS, by_floor


def test_no_script_knows_another():
    assert {name: imports(name) & SCRIPTS for name in SCRIPTS if imports(name) & SCRIPTS} == {}


def test_no_modules_import_each_other():
    # A package imports its modules, and they may name it.
    graph = {name: (imports(name) & FILES.keys()) - {name, "segjax"} for name in FILES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))

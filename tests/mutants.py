"""Breaks the library in one place at a time, and lists the mutants that no test detects.

    python -m tests.mutants --number 60 --seed 0

A mutant changes an operator, a number, a condition or a line of a module of segjax, in a copy of the project. Mutants
are drawn at random, equally many per module. The tests of that module run first, then all that `make check` runs. A
mutant that survives needs a test, unless it computes the same: exit code 1.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
NEEDED = ("segjax", "experiments", "tests", "pyproject.toml", "README.md", "Makefile", "docs", "CONTRIBUTING.md")
# A test that waits for ever has detected the mutant too.
SECONDS = 300
PARALLEL = ("--numprocesses", "auto", "--dist", "loadfile", "--no-loadscope-reorder")

OTHERS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Mod: ast.Mult,
}


class Mutant(NamedTuple):
    """A changed place of a module; `source` is the whole module with the change."""

    module: str
    line: int
    before: str
    after: str
    source: str


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """The replacements of one node."""
    match node:
        case ast.Compare(left, [operator], comparators) if type(operator) in OTHERS:
            yield ast.Compare(left, [OTHERS[type(operator)]()], comparators)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(OTHERS[type(operator)](), values)
        case ast.BinOp(left, operator, right) if type(operator) in OTHERS:
            yield ast.BinOp(left, OTHERS[type(operator)](), right)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.IfExp(_, body, otherwise):
            yield body
            yield otherwise
        # A call for its effect, a check, a sum that grows.
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.If(orelse=[]):
            yield ast.Pass()


def mutants(path: Path) -> list[Mutant]:
    """All mutants of a module, except those in annotations, which compute nothing."""
    source = path.read_text()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    tree, results = ast.parse(source), []
    silent = {id(inner) for node in ast.walk(tree) for part in annotations(node) for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        for other in changed(node):
            begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            text = ast.unparse(ast.fix_missing_locations(other))
            text = text if isinstance(other, ast.Pass) else f"({text})"
            original = source.encode()
            mutated = (original[:begin] + text.encode() + original[end:]).decode()
            results.append(Mutant(path.stem, node.lineno, original[begin:end].decode(), text, mutated))
    return results


def annotations(node: ast.AST) -> list[ast.AST]:
    parts = [getattr(node, name, None) for name in ("annotation", "returns")]
    # `int | None` in an assignment of a type, too: a sum of types.
    return [part for part in parts if part is not None]


def sample(number: int, seed: int) -> list[Mutant]:
    """Random mutants, one per module in turn."""
    rng, piles = random.Random(seed), []
    for path in sorted((ROOT / "segjax").glob("*.py")):
        pile = mutants(path) if path.stem != "__init__" else []
        rng.shuffle(pile)
        piles.append(pile)
    chosen: list[Mutant] = []
    while len(chosen) < number and any(piles):
        chosen += [pile.pop() for pile in piles if pile]
    return chosen[:number]


def run(folder: Path, *words: str) -> bool:
    """Whether the tests pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words]
    # Most of their programs are those of the tests before.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def survives(mutant: Mutant, folder: Path) -> bool:
    path = folder / "segjax" / f"{mutant.module}.py"
    original = path.read_text()
    path.write_text(mutant.source)
    try:
        files = [str(path), f"tests/test_{mutant.module.lstrip('_')}.py"]
        return run(folder, "-m", "not deep", *files) and run(folder, *PARALLEL, "-m", "not slow and not deep")
    finally:
        path.write_text(original)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    survived = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in NEEDED:
            source = ROOT / part
            shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
        chosen = sample(options.number, options.seed)
        for index, mutant in enumerate(chosen, start=1):
            alive = survives(mutant, folder)
            survived += alive
            where = f"segjax/{mutant.module}.py:{mutant.line}"
            verdict = "SURVIVED" if alive else "killed"
            print(f"{index}/{len(chosen)} {verdict} {where}: {mutant.before} -> {mutant.after}", flush=True)
    print(f"{len(chosen)} mutants, {survived} survived")
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()

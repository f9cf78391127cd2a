"""Breaks the library in one place at a time, and lists the mutants that no test detects.

    python -m tests.mutants --number 60 --seed 0

A mutant changes an operator, a number, a condition or a line of a module of segjax, in a copy of the project. Mutants
are drawn at random, equally many per module. The tests of that module run first, then all that `make check` runs. A
mutant that survives needs a test, unless it computes the same: exit code 1.

Neither mutmut 3.8 nor cosmic-ray 8.7 takes its place. mutmut changes no decorated function, and so no network; its
forks of a process with jax hang. cosmic-ray makes five times as many mutants, 14,000, without a choice of some, and
drops no line.
"""

import argparse
import ast
import itertools
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
# A test that waits for ever has detected the mutant too.
SECONDS = 300
PARALLEL = ("--numprocesses", "auto", "--dist", "loadfile", "--no-loadscope-reorder")

OPPOSITES: dict[type[ast.AST], type[ast.AST]] = {
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


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, [operator], comparators) if type(operator) in OPPOSITES:
            yield ast.Compare(left, [OPPOSITES[type(operator)]()], comparators)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(OPPOSITES[type(operator)](), values)
        case ast.BinOp(left, operator, right) if type(operator) in OPPOSITES:
            yield ast.BinOp(left, OPPOSITES[type(operator)](), right)
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
    source = path.read_bytes()
    # Positions of a node are in bytes.
    starts = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
    tree, results = ast.parse(source), []
    parts = (getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns"))
    annotations = {id(inner) for part in parts if part is not None for inner in ast.walk(part)}
    for node in ast.walk(tree):
        for other in replacements(node) if id(node) not in annotations else ():
            begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            text = ast.unparse(ast.fix_missing_locations(other))
            text = text if isinstance(other, ast.Pass) else f"({text})"
            mutated = (source[:begin] + text.encode() + source[end:]).decode()
            results.append(Mutant(path.stem, node.lineno, source[begin:end].decode(), text, mutated))
    return results


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


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests pass: those of the module, then the quick ones."""
    # Most of their programs are those of the tests before.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    path = folder / "segjax" / f"{mutant.module}.py"
    of_module = ("-m", "not deep", str(path), f"tests/test_{mutant.module.lstrip('_')}.py")
    original = path.read_text()
    path.write_text(mutant.source)
    try:
        for words in (of_module, (*PARALLEL, "-m", "not slow and not deep")):
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words]
            if subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=SECONDS).returncode:
                return False
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(original)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    survived = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "results", "build", "shared"))
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

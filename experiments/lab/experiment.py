"""The skeleton of every experiment: check, claim the folder, train or do other work, report, write.

A script is a question: its docstring begins with it. It defines

    Options    a frozen dataclass of `options.Command`, with the checks of its own options
    PRESETS    name -> Options
    plan       (options) -> the runs to train, for a question that training answers; or, for any other work,
    work       (options, lab) -> whatever its report needs
    report     (options, what training or work gave) -> Report

and ends with `experiment.main()`.
"""

import ast
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from rich.console import Console
from rich.markup import escape

from experiments.lab import cli, output, provenance, store, workers
from experiments.lab.names import exact, printable, shortened
from experiments.lab.options import Command, Comparison, Runs, Training
from experiments.lab.runs import CHUNK_SIZE, Result, Run
from experiments.lab.stops import usage_errors
from experiments.lab.train import Checkpoints, Watch, grouped, progress_bar, train_group

# Characters of an optimizer's name in a line of progress.
_LONGEST_NAME = 20


def main() -> None:
    """Runs the script that was started."""
    script = sys.modules["__main__"]
    cli.command(partial(run, script), script.Options, script.PRESETS)


class Lab:
    """What a question works with: the terminal, the folder of its options, and the workers that train its runs."""

    def __init__(self, options: Command, console: Console, stack: contextlib.ExitStack) -> None:
        """`stack` ends the workers."""
        self.options, self.console, self._stack = options, console, stack

    def train(self, runs: Sequence[Run], watch: Watch | None = None, chunk_size: int = CHUNK_SIZE) -> list[Result]:
        """Trains every run, or reads it where the folder holds it already; the results are in the order of the runs.

        Runs of one program are trained together, as many as `options.width` allows, unless they are watched.

        Args:
            watch: called with the state after every chunk; the runs are then trained by this process.
            chunk_size: steps between two looks.
        """
        options, out = cast(Training, self.options), self.options.out
        # A run may be asked for twice, and is trained once.
        runs_once = list(dict.fromkeys(runs))
        store.announce_runs(out, [run.stem for run in runs_once])
        results = {run: store.read_run(out, run) for run in runs_once if store.has_run(out, run)}
        width = options.width if isinstance(options, Comparison) and not watch else 1
        # A group of which some runs are finished is trained as a whole: the others keep the rounding that they have
        # beside these.
        groups = [group for group in grouped(runs_once, width) if not results.keys() >= set(group)]

        def finished(trained: Sequence[Result]) -> None:
            new = [result for result in trained if result.run not in results]
            store.write_runs(out, new)
            results.update({result.run: result for result in new})

        with progress_bar(self.console) as progress:
            total, done = (sum(run.iterations for run in some) for some in (runs_once, results))
            bar = progress.add_task("", total=total, completed=done)
            if isinstance(options, Runs) and (options.workers or options.cluster) and groups and not watch:

                def look(steps: int, workers: int) -> None:
                    done = sum(run.iterations for run in results)
                    words = f"{len(results)} of {len(runs_once)} runs, {workers} worker{'s' if workers != 1 else ''}"
                    progress.update(bar, completed=done + steps, description=words)

                progress.update(bar, description="starting the workers")
                self._pool.train(groups, finished, look)
                groups = []
            for group in groups:
                name, stems = _name(group, options), [run.stem for run in group]
                share = sum(run not in results for run in group) / len(group)

                def look_here(what: str, new_steps: int, name: str = name, share: float = share) -> None:
                    progress.update(bar, advance=new_steps * share, description=f"{what} {name}")

                checkpoints = Checkpoints(
                    partial(store.read_begun, out, stems),
                    partial(store.write_begun, out, stems),
                    options.checkpoint_seconds,
                )
                finished(train_group(group, look_here, checkpoints, watch, chunk_size))
        return [results[run] for run in runs]

    @cached_property
    def _pool(self) -> workers.Pool:
        """The workers start with the first runs to train, and stay for all that follow."""

        def say(text: str) -> None:
            self.console.print(escape(text), highlight=False, soft_wrap=True)

        return self._stack.enter_context(workers.opened(cast(Runs, self.options), say))


def run(script: ModuleType, options: Command) -> None:
    """Answers the question of a script.

    Raises:
        UsageError, EngineError, Finished, Interrupted: as `stops` says.
        SystemExit: with 1, where all is written but a part of the input could not be read.
    """
    # jax reads its flags when it first looks for devices.
    with options.prepared(), contextlib.ExitStack() as stack:
        with usage_errors():
            options.check()
            identity = options.identity(name_of(script))
        additions = options.additions()
        identity = store.claim(options.out, identity, options.overwrite, options.free, additions)
        if additions:
            # What the folder holds is reported together with what this command adds.
            together: dict[str, Any] = {name: tuple(map(Path, identity["options"][name])) for name in additions}
            options = dataclasses.replace(options, **together)
        lab = Lab(options, Console(), stack)
        if hasattr(script, "work"):
            found = script.work(options, lab)
        else:
            with usage_errors():
                planned = script.plan(options)
                if not planned:
                    raise ValueError("the options leave nothing to train")
            found = lab.train(planned)
        report = script.report(options, found)
        report = report._replace(warnings=[*report.warnings, *provenance.warnings(report.rows)])
        output.write(options, identity, question(script.__doc__ or ""), report, lab.console)
        # Progress bars would take lines in between for their own: failures are said when all work is done.
        for sentence in report.failures:
            print(printable(f"error: {sentence}"), file=sys.stderr)
        if report.failures:
            sys.exit(1)


def _name(runs: Sequence[Run], options: Training) -> str:
    """What progress calls a group of runs."""
    first, optimizer = runs[0], shortened(options.called(runs[0].optimizer), _LONGEST_NAME)
    if len(runs) > 1:
        return f"{len(runs)} runs of {optimizer} together"
    return f"{optimizer} {exact(first.learning_rate)}, seed {first.seed}, {first.architecture}, {first.objective}"


def name_of(script: ModuleType) -> str:
    """What results.json calls the experiment: the name of the script's file."""
    return Path(script.__file__ or "").stem


def question(docstring: str) -> str:
    """The first line of a script's docstring."""
    return docstring.strip().partition("\n")[0]


def questions(folder: Path) -> dict[str, str]:
    """name -> question, of each script in a folder; read without importing, which would take seconds."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text())
        names = {getattr(node, "name", "") for node in tree.body}
        if {"Options", "report"} <= names:
            found[path.stem] = question(ast.get_docstring(tree) or "?")
    return found

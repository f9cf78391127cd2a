"""The skeleton of every question: command line -> options -> folder -> answer -> files.

The first line of a script's docstring is its question. The script defines

    Options    a frozen dataclass of `options.Command`: groups of options, its own options, and their checks
    PRESETS    name -> Options; the first is the default
    answer     (options, lab) -> Report

and ends with `question.main()`.
"""

import ast
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.text import Text

from experiments.lab import cli, provenance, report, workers
from experiments.lab.folder import Folder
from experiments.lab.log import Log
from experiments.lab.names import exact, printable, shortened
from experiments.lab.options import Command, Engine, Training, check_runs, identity_of
from experiments.lab.programs import CHUNK_SIZE
from experiments.lab.runs import Group, Result, Run
from experiments.lab.stops import usage_errors
from experiments.lab.train import Watch, grouped, progress_bar, train_group

# Most characters of an optimizer's name in the progress.
_LONGEST_NAME = 20


class Lab:
    """The services for a question: its folder of results, the terminal, and the training of runs.

    Attributes:
        folder: the folder of the results.
        progress: returns a progress bar on the terminal, for a `with` statement.
    """

    def __init__(self, folder: Folder, console: Console, options: Command, stack: contextlib.ExitStack) -> None:
        """`stack` stops the workers when it is closed."""
        self.folder, self._console, self._stack = folder, console, stack
        self._training, self._engine = options.group(Training), options.group(Engine)
        self.progress = partial(progress_bar, console)
        self._log = Log(self._training.log, options.out, options.overwrite, self.say)

    def say(self, text: str) -> None:
        """Prints a line on the terminal."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    def train(
        self,
        runs: Sequence[Run],
        watch: Watch | None = None,
        chunk_size: int = CHUNK_SIZE,
        labels: Mapping[str, str] | None = None,
    ) -> list[Result]:
        """Trains every run, or reads it if the folder holds it already; returns the results in the order of the runs.

        Args:
            watch: called with the state after every chunk; then this process trains the runs, one after the other.
            chunk_size: most steps of a chunk.
            labels: optimizer -> its name in the progress, if it has another.

        Raises:
            UsageError: if there are no runs, or if one is invalid.
        """
        # A run may be listed twice, and is trained once.
        runs_once = list(dict.fromkeys(runs))
        with usage_errors():
            check_runs(runs_once)
        self.folder.announce_runs([run.stem for run in runs_once])
        results = {run: result for run in runs_once if (result := self.folder.read_run(run))}
        width = 1 if watch else self._engine.width
        # A group with some finished runs is trained as a whole, since rounding depends on the size of the group.
        groups = [group for group in grouped(runs_once, width) if not results.keys() >= set(group)]

        def finished(trained: Sequence[Result]) -> None:
            new = [result for result in trained if result.run not in results]
            if new:
                self.folder.write_runs(new)
            for result in trained:
                self._log.add([result.run], result.history)
            results.update({result.run: result for result in new})

        # Their lines may be missing in the log.
        finished(list(results.values()))

        def finished_steps() -> int:
            return sum(run.iterations for run in results)

        with self.progress() as progress:
            total = sum(run.iterations for run in runs_once)
            update = partial(progress.update, progress.add_task("", total=total))
            if groups and not watch and (self._engine.workers or self._engine.cluster):

                def look(steps: int, workers: int) -> None:
                    counts = f"{len(results)} of {len(runs_once)} runs, {workers} worker{'s' if workers != 1 else ''}"
                    update(completed=finished_steps() + steps, description=counts)

                update(description="starting the workers")
                self._pool.train(train_group, groups, finished, look)
                groups = []
            for group in groups:
                new_runs = sum(run not in results for run in group)
                look_here = partial(_show, update, _name(group, labels or {}), finished_steps(), new_runs)
                every, log = self._training.checkpoint_seconds, partial(self._log.add, group)
                finished(train_group(group, look_here, self.folder, every, watch, chunk_size, log))
        return [results[run] for run in runs]

    @cached_property
    def _pool(self) -> workers.Pool:
        """The workers, which start when the first runs are trained, and stay until the end."""
        return self._stack.enter_context(workers.opened(self._engine, self._training.precision, self.say))


def _show(update: Callable[..., None], name: str, steps_before: int, new_runs: int, activity: str, steps: int) -> None:
    """Updates the progress bar after a chunk of a group with `new_runs` unfinished runs."""
    update(completed=steps_before + steps * new_runs, description=f"{activity} {name}")


def _name(runs: Group, labels: Mapping[str, str]) -> str:
    """The name of a group of runs in the progress."""
    first = runs[0]
    optimizer = shortened(labels.get(first.optimizer, first.optimizer), _LONGEST_NAME)
    if len(runs) > 1:
        return f"{len(runs)} runs of {optimizer} together"
    return f"{optimizer} {exact(first.learning_rate)}, seed {first.seed}, {first.architecture}, {first.objective}"


def main() -> None:
    """Runs the script that was started."""
    script = sys.modules["__main__"]
    cli.command(partial(run, script), script.Options, script.PRESETS)


def run(
    script: ModuleType,
    options: Command,
    more: Callable[[dict[str, Any]], Mapping[str, bytes]] = lambda document: {},
) -> None:
    """Answers the question of a script, and writes the files of the answer.

    Args:
        more: returns further files for the content of results.json.

    Raises:
        UsageError, EngineError, Finished, Interrupted: as defined in `stops`.
        SystemExit: with 1, after all files are written, if the report lists failures.
    """
    console = Console()
    with opened(script, options, console) as lab:
        answer = script.answer(options, lab)
        answer = answer._replace(warnings=[*answer.warnings, *provenance.warnings(answer.csv_rows)])
        heading = question(script.__doc__ or "")
        document = report.document(options, lab.folder.identity, answer)
        files = report.files(heading, answer, document)
        lab.folder.finish({**files, **more(document)}, document)
        # After the files are written, since the terminal may fail.
        report.show(answer, console)
        # The last line, where a person looks first.
        lab.say(f"Wrote {len(files) + 1} files; open {options.out / 'report.html'}")
    # Printed last, since a progress bar would overwrite lines.
    for failure in answer.failures:
        print(printable(f"error: {failure}"), file=sys.stderr)
    if answer.failures:
        sys.exit(1)


@contextlib.contextmanager
def opened(script: ModuleType, options: Command, console: Console) -> Iterator[Lab]:
    """A lab for a script's options, after jax is configured, the options are checked, and the folder is claimed."""
    # Before the check, which may look for devices: then jax reads its flags.
    with options.prepared(), contextlib.ExitStack() as stack:
        with usage_errors():
            options.check()
            # The name of the script's file is that of the experiment.
            identity = identity_of(options, Path(script.__file__ or "").stem)
        # Only questions that keep their runs have such options: the others would train again for these figures.
        free = (*options.free, "pdf") if options.free else ()
        folder = stack.enter_context(Folder.claimed(options.out, identity, options.overwrite, free))
        yield Lab(folder, console, options, stack)


def question(docstring: str) -> str:
    """The first line of a script's docstring."""
    return docstring.strip().partition("\n")[0]


def questions(folder: Path) -> dict[str, str]:
    """name -> question of each script in a folder, without importing them, which would take seconds."""
    questions = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text())
        if {"Options", "answer"} <= {getattr(node, "name", "") for node in tree.body}:
            questions[path.stem] = question(ast.get_docstring(tree) or "?")
    return questions

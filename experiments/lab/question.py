"""The skeleton of every question: command line -> options -> folder -> answer -> files.

A script is a question: its docstring begins with it. It defines

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
from rich.markup import escape
from rich.progress import Progress

from experiments.lab import cli, report, workers
from experiments.lab.folder import Folder
from experiments.lab.names import exact, printable, shortened
from experiments.lab.options import Command, Engine, Training, check_run, identity_of
from experiments.lab.programs import CHUNK_SIZE
from experiments.lab.runs import Group, Result, Run
from experiments.lab.stops import usage_errors
from experiments.lab.train import Checkpoints, Watch, grouped, progress_bar, train_group

# Characters of an optimizer's name in a line of progress.
_LONGEST_NAME = 20


class Lab:
    """What a question works with: its folder, the terminal, and the workers that train its runs.

    Attributes:
        folder: of the results.
    """

    def __init__(self, folder: Folder, console: Console, options: Command, stack: contextlib.ExitStack) -> None:
        """`stack` ends the workers."""
        self.folder, self._console, self._stack = folder, console, stack
        # A question that trains no runs has no such group.
        groups: dict[type, Any] = {type(group): group for group in options.groups}
        self._training: Training = groups.get(Training, Training())
        self._engine: Engine = groups.get(Engine, Engine())

    def say(self, text: str) -> None:
        """Prints a line on the terminal."""
        self._console.print(escape(printable(text)), highlight=False, soft_wrap=True)

    def progress(self) -> Progress:
        """A bar on the terminal, to be entered."""
        return progress_bar(self._console)

    def train(
        self,
        runs: Sequence[Run],
        watch: Watch | None = None,
        chunk_size: int = CHUNK_SIZE,
        labels: Mapping[str, str] | None = None,
    ) -> list[Result]:
        """Trains every run, or reads it where the folder holds it already; the results are in the order of the runs.

        Args:
            watch: called with the state after every chunk; this process then trains the runs, one after the other.
            chunk_size: most steps of a chunk.
            labels: optimizer -> its name in the progress, where it has another.

        Raises:
            UsageError: if there are no runs, or one that cannot be.
        """
        # A run may be asked for twice, and is trained once.
        runs_once = list(dict.fromkeys(runs))
        with usage_errors():
            if not runs_once:
                raise ValueError("the options leave nothing to train")
            for run in runs_once:
                check_run(run)
        self.folder.announce_runs([run.stem for run in runs_once])
        results = {run: self.folder.read_run(run) for run in runs_once if self.folder.has_run(run)}
        # A group of which some runs are finished is trained as a whole, so that the others keep the rounding that they
        # have beside these.
        groups = [
            group
            for group in grouped(runs_once, 1 if watch else self._engine.width)
            if not results.keys() >= set(group)
        ]

        def finished(trained: Sequence[Result]) -> None:
            new = [result for result in trained if result.run not in results]
            self.folder.write_runs(new)
            results.update({result.run: result for result in new})

        with self.progress() as progress:
            total = sum(run.iterations for run in runs_once)
            update = partial(progress.update, progress.add_task("", total=total))
            if groups and not watch and (self._engine.workers or self._engine.cluster):
                update(description="starting the workers")

                def look(steps: int, workers: int) -> None:
                    counts = f"{len(results)} of {len(runs_once)} runs, {workers} worker{'s' if workers != 1 else ''}"
                    update(completed=steps + sum(run.iterations for run in results), description=counts)

                self._pool.train(train_group, groups, finished, look)
                groups = []
            for group in groups:
                update(completed=sum(run.iterations for run in results))
                new_runs, name = sum(run not in results for run in group), _name(group, labels or {})

                def look_here(what: str, steps: int, name: str = name, new_runs: int = new_runs) -> None:
                    update(advance=steps * new_runs, description=f"{what} {name}")

                finished(train_group(group, look_here, self._checkpoints(group), watch, chunk_size))
        return [results[run] for run in runs]

    def _checkpoints(self, group: Group) -> Checkpoints:
        stems = [run.stem for run in group]
        read, write = partial(self.folder.read_partial, stems), partial(self.folder.write_partial, stems)
        return Checkpoints(read, write, self._training.checkpoint_seconds)

    @cached_property
    def _pool(self) -> workers.Pool:
        """The workers start with the first runs to train, and stay for all that follow."""
        return self._stack.enter_context(workers.opened(self._engine, self._training.precision, self.say))


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
        more: makes further files from the content of results.json.

    Raises:
        UsageError, EngineError, Finished, Interrupted: as `stops` says.
        SystemExit: with 1, where all is written but a part of the input could not be read.
    """
    console = Console()
    with opened(script, options, console) as lab:
        answer = script.answer(options, lab)
        heading = question(script.__doc__ or "")
        document = report.document(options, lab.folder.identity, answer)
        files = report.files(heading, answer, document)
        lab.folder.finish({**files, **more(document)}, document)
        # All is kept by now, whatever becomes of the terminal.
        report.show(answer, console)
        # The page last, where one looks for it; on one line, so that it can be copied.
        lab.say(f"Wrote {len(files) + 1} files; open {options.out / 'report.html'}")
    # Progress bars would take lines in between for their own: failures are said when all work is done.
    for sentence in answer.failures:
        print(printable(f"error: {sentence}"), file=sys.stderr)
    if answer.failures:
        sys.exit(1)


@contextlib.contextmanager
def opened(script: ModuleType, options: Command, console: Console) -> Iterator[Lab]:
    """A lab for a script's options: jax is set, the options are checked, and the folder is claimed."""
    # jax reads its flags when it first looks for devices.
    with options.prepared(), contextlib.ExitStack() as stack:
        with usage_errors():
            options.check()
            identity = identity_of(options, name_of(script))
        folder = stack.enter_context(Folder.claimed(options.out, identity, options.overwrite, options.free))
        yield Lab(folder, console, options, stack)


def name_of(script: ModuleType) -> str:
    """What results.json calls the question: the name of the script's file."""
    return Path(script.__file__ or "").stem


def question(docstring: str) -> str:
    """The first line of a script's docstring."""
    return docstring.strip().partition("\n")[0]


def questions(folder: Path) -> dict[str, str]:
    """name -> question, of each script in a folder; read without importing, which would take seconds."""
    questions = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text())
        names = {getattr(node, "name", "") for node in tree.body}
        if {"Options", "answer"} <= names:
            questions[path.stem] = question(ast.get_docstring(tree) or "?")
    return questions

"""The skeleton of every experiment: check, claim the folder, train or do other work, report, write.

A script is a question: its docstring begins with it. It defines

    Options    a frozen dataclass of `options.Command`, with the checks of its own options
    PRESETS    name -> Options
    plan       (options) -> the runs to train, for a question that training answers; or, for any other work,
    work       (options, console) -> whatever its report needs
    report     (options, what training or work gave) -> Report

and ends with `experiment.main()`.
"""

import ast
import dataclasses
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from rich.console import Console

from experiments.lab import cli, output, processes, store
from experiments.lab.names import printable
from experiments.lab.options import Command, Training
from experiments.lab.stops import usage_errors
from experiments.lab.train import train_all


def main() -> None:
    """Runs the script that was started."""
    script = sys.modules["__main__"]
    cli.command(partial(run, script), script.Options, script.PRESETS)


def run(script: ModuleType, options: Command) -> None:
    """Answers the question of a script.

    Raises:
        UsageError, Finished, Interrupted: as `stops` says.
        SystemExit: with 1, where all is written but a part of the input could not be read.
    """
    # In this order: jax reads its flags when it first looks for devices, and must not look before the processes join.
    with options.prepared(), processes.joined(options, options.out):
        # Of several processes one writes; all of them check, since each has a command line of its own.
        with usage_errors():
            options.check()
            identity = options.identity(name_of(script))
        writer = processes.is_writer()
        processes.agree(identity)
        if writer:
            additions = options.additions()
            identity = store.claim(options.out, identity, options.overwrite, options.free, additions)
            if additions:
                # What the folder holds is reported together with what this command adds.
                together: dict[str, Any] = {name: tuple(map(Path, identity["options"][name])) for name in additions}
                options = dataclasses.replace(options, **together)
        console = Console(quiet=not writer)
        if hasattr(script, "work"):
            found = script.work(options, console)
        else:
            with usage_errors():
                planned = script.plan(options)
                if not planned:
                    raise ValueError("the options leave nothing to train")
            found = train_all(planned, cast(Training, options), console)
        if not writer:
            return
        report = script.report(options, found)
        output.write(options, identity, question(script.__doc__ or ""), report, console)
        # Progress bars would take lines in between for their own: failures are said when all work is done.
        for sentence in report.failures:
            print(printable(f"error: {sentence}"), file=sys.stderr)
        if report.failures:
            sys.exit(1)


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

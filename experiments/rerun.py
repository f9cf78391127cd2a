"""Does a result come out again? Repeats an experiment from its own results.json, and compares every number.

    python -m experiments.rerun results/compare_optimizers/results.json

The options of the file are used, whatever the command line was. On one machine's CPU, with the same versions, all
numbers are the same bit for bit. Times are not compared, and the results of train_best_model and learn_textures, which
follow the clock, of compare_architectures, whose equal seconds do, and of benchmark differ. The new results go to
`--out`, with `rerun.json`: what differs. Exit code 0 if nothing does, else 1. It takes as long as the experiment did.
"""

import contextlib
import dataclasses
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import tyro
from rich.console import Console

from experiments import command, folder
from experiments.processes import SINGLE
from segjax import checkpoints

# What may differ between two runs of one experiment: how and when it was made, and anything timed.
UNCOMPARED = re.compile("command|date|options|versions|device|files|.*seconds.*")
SHOWN = 5


@dataclass(frozen=True)
class Options:
    """Repeats an experiment, and says whether every number came out the same."""

    results: tyro.conf.Positional[Path]
    """results.json of the experiment."""
    out: str = ""
    """Folder for the new results; where it is empty, that of the file with -rerun at its end."""
    overwrite: bool = False
    """Begin anew in a folder that already holds files."""


class Difference(NamedTuple):
    """A value that did not come out the same, by its path in the document."""

    place: str
    before: Any
    after: Any


def main(options: Options) -> None:
    before = read(options.results)
    home = options.results.resolve().parent
    out = Path(options.out) if options.out else home.with_name(f"{home.name}-rerun")
    if out.resolve() == home:
        raise command.UsageError(f"--out {out} is the folder of the results themselves")
    script, again = rebuild(before, out, options.overwrite)
    try:
        # Of one that has written its results, an exit says that a part of its input could not be read.
        with contextlib.suppress(SystemExit):
            script.main(again)
    except command.Finished:
        raise command.UsageError(
            f"--out {out} holds these results already; name another, or pass --overwrite"
        ) from None
    after = json.loads((out / folder.RESULTS).read_text())
    found, compared = differences(before, after), sum(1 for _ in leaves(before))
    other = [
        f"{section} {name}: {before[section].get(name)}, now {after[section].get(name)}"
        for section in ("versions", "device")
        for name in before[section]
        if before[section].get(name) != after[section].get(name)
    ]
    document = {"results": str(options.results), "compared": compared, "other": other}
    document["differences"] = [difference._asdict() for difference in found]
    checkpoints.write(out / "rerun.json", (json.dumps(document, indent=1) + "\n").encode())
    say(found, compared, other)
    if found:
        raise SystemExit(1)


def say(found: list[Difference], compared: int, other: list[str]) -> None:
    console = Console()
    if found:
        console.print(f"{len(found)} of {compared} values differ:", highlight=False)
    else:
        console.print(f"All {compared} values came out the same, bit for bit.", highlight=False)
    for place, before, after in found[:SHOWN]:
        console.print(f"  {place}: {before}, now {after}", highlight=False, markup=False)
    if len(found) > SHOWN:
        console.print("  ... (all of them in rerun.json)", highlight=False)
    for words in other:
        console.print(f"Not made alike: {words}", highlight=False, markup=False)


def read(path: Path) -> dict[str, Any]:
    """A document that an experiment wrote; a UsageError for anything else."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise command.UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise command.UsageError(f"{path} is not the results.json of an experiment: {error}") from error
    sections = ("options", "versions", "device")
    if not isinstance(document, dict) or not all(isinstance(document.get(name), dict) for name in sections):
        raise command.UsageError(f"{path} is not the results.json of an experiment")
    return document


def rebuild(document: dict[str, Any], out: Path, overwrite: bool) -> tuple[Any, Any]:
    """The script and its options, as the document says, for another folder and one process."""
    name = str(document.get("experiment"))
    try:
        script = importlib.import_module(f"experiments.{name}")
        types = get_type_hints(script.Options)
    except (ImportError, AttributeError, TypeError) as error:
        raise command.UsageError(f"there is no experiment {name!r} to repeat") from error
    given = {**document["options"], "out": str(out), "overwrite": overwrite}
    given |= {field: value for field, value in SINGLE.items() if field in given}
    known = {field.name for field in dataclasses.fields(script.Options)}
    if odd := sorted(known.symmetric_difference(given)):
        raise command.UsageError(
            f"the results are of another version of {name}: its options differ by {', '.join(odd)}"
        )
    return script, script.Options(**{field: _typed(value, types[field]) for field, value in given.items()})


def _typed(value: Any, kind: Any) -> Any:
    """JSON's value as the field's type has it."""
    if isinstance(value, list):
        return tuple(_typed(item, kind) for item in value)
    return Path(value) if isinstance(value, str) and "Path" in str(kind) else value


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """path -> value of all that is compared."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not UNCOMPARED.fullmatch(key):
                yield from leaves(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{place}[{index}]")
    else:
        yield place, value


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    """Every value that is not the same, one that only one of them has included."""
    first, second = dict(leaves(before)), dict(leaves(after))
    places = [*first, *(place for place in second if place not in first)]
    return [
        Difference(place, first.get(place, "nothing"), second.get(place, "nothing"))
        for place in places
        if place not in first or place not in second or first[place] != second[place]
    ]


if __name__ == "__main__":
    command.run(main, Options, {})

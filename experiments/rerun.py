"""Does a result come out again? Repeats an experiment from its own results.json, and compares every number.

    python -m experiments.rerun results/compare_optimizers/results.json

The options of the file are used, whatever the command line was. On one machine's CPU, with as many cores and the
same versions, all numbers are the same bit for bit. Times are not compared. Four experiments depend on the clock and
do not come out again: train_best_model, learn_textures, compare_architectures (its equal seconds) and benchmark. The
new results go to `--out`, with `rerun.json`: what differs. Exit code 0 if nothing does, else 1. It takes as long as the
experiment did.
"""

import contextlib
import importlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import tyro
from rich.console import Console

from experiments.lab import cli, folder, question
from experiments.lab.options import from_flat
from experiments.lab.stops import Finished, UsageError

# How and when a result was made may differ, and so may anything timed.
UNCOMPARED = re.compile("command|date|python|options|versions|numerics|device|source|files|cores|.*seconds.*")
# Sections that say how results were made: their differences are listed, and are no failure.
PROVENANCE = ("versions", "numerics", "device", "source")
# Differences on the terminal.
SHOWN = 5


@dataclass(frozen=True)
class Options:
    """Repeats an experiment, and says whether every number came out the same. Where the results name an optimizer by an
    import path, this runs the code of its module."""

    results: tyro.conf.Positional[Path]  # results.json of the experiment.
    out: str = ""
    """Folder for the new results; where it is empty, that of the file with -rerun at its end."""
    overwrite: bool = False
    """Begin anew in a folder that already holds files."""
    allow_import: tuple[str, ...] = ()
    """Modules that the results may import, which runs their code; those of segjax, of optax and in the folder of the
    file need not be named."""


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
        raise UsageError(f"--out {out} is the folder of the results themselves")
    script, again = rebuild(before, out, options.overwrite)
    for module in imported(again.flat):
        if not allowed(module, home, options.allow_import):
            raise UsageError(
                f"{options.results} would run code of the module {module}: to let it, --allow-import {module}"
            )
    comparison: dict[str, Any] = {}

    def compare(after: Mapping[str, Any]) -> dict[str, bytes]:
        comparison.update(results=str(options.results), compared=sum(1 for _ in leaves(before)))
        comparison.update(other=other_provenance(before, after))
        comparison.update(differences=[difference._asdict() for difference in differences(before, after)])
        return {"rerun.json": json.dumps(comparison, indent=1).encode()}

    try:
        # An experiment that could not read a part of its input writes its results, and exits.
        with contextlib.suppress(SystemExit):
            question.run(script, again, compare)
    except Finished:
        raise UsageError(f"--out {out} holds these results already; name another, or pass --overwrite") from None
    say(comparison)
    if comparison["differences"]:
        raise SystemExit(1)


def say(comparison: Mapping[str, Any]) -> None:
    differing, compared = comparison["differences"], comparison["compared"]
    same = f"All {compared} values came out the same, bit for bit."
    lines = [f"{len(differing)} of {compared} values differ:" if differing else same]
    lines += [f"  {row['place']}: {row['before']}, now {row['after']}" for row in differing[:SHOWN]]
    lines += ["  ... (all of them in rerun.json)"] if len(differing) > SHOWN else []
    lines += [f"Provenance differs: {text}" for text in comparison["other"]]
    for line in lines:
        Console().print(line, highlight=False, markup=False)


def read(path: Path) -> dict[str, Any]:
    """A document that an experiment wrote; a UsageError for anything else."""
    try:
        document = folder.read_document(path)
        if missing := [name for name in PROVENANCE if name not in document]:
            raise ValueError(f"it has no {missing[0]}")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not the results.json of an experiment: {error}") from error
    return document


def imported(value: Any) -> list[str]:
    """The modules of all import paths, "MODULE:factory", among options."""
    if isinstance(value, dict):
        return imported((*value, *value.values()))
    if isinstance(value, list | tuple):
        return [name for item in value for name in imported(item)]
    module, colon, _ = value.partition(":") if isinstance(value, str) else ("", "", "")
    return [module] if colon and all(part.isidentifier() for part in module.split(".")) else []


def allowed(module: str, home: Path, named: Collection[str]) -> bool:
    """Whether a module may be imported: by its name, or since its file is in the folder of the results."""
    top = module.partition(".")[0]
    if top in ("segjax", "optax") or module in named:
        return True
    # The top level alone: to look for what is within a package would import it.
    spec = find_spec(top)
    return bool(spec and spec.origin and Path(spec.origin).resolve().is_relative_to(home))


def rebuild(document: Mapping[str, Any], out: Path, overwrite: bool) -> tuple[Any, Any]:
    """The script and its options, as the document says, for another folder and for this process alone."""
    name = str(document.get("experiment"))
    if name not in question.questions(Path(__file__).parent):
        raise UsageError(f"there is no experiment {name!r} to repeat")
    script = importlib.import_module(f"experiments.{name}")
    changed = {"out": str(out), "overwrite": overwrite, "workers": 0, "cluster": ""}
    flat = document["options"] | {option: value for option, value in changed.items() if option in document["options"]}
    try:
        return script, from_flat(script.Options, flat)
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise UsageError(f"the results are of another version of {name}: {error}") from error


def other_provenance(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The provenance that differs, in words."""
    return [
        f"{section} {name}: {value}, now {after[section].get(name)}"
        for section in PROVENANCE
        for name, value in before[section].items()
        if value != after[section].get(name)
    ]


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """path -> value, of everything that is compared."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not UNCOMPARED.fullmatch(key):
                yield from leaves(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{place}[{index}]")
    else:
        yield place, value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Every value that is not the same, one that only one of them has included."""
    first, second = dict(leaves(before)), dict(leaves(after))
    places = [*first, *(place for place in second if place not in first)]
    return [
        Difference(place, first.get(place, "nothing"), second.get(place, "nothing"))
        for place in places
        if place not in first or place not in second or first[place] != second[place]
    ]


if __name__ == "__main__":
    cli.command(main, Options, {})

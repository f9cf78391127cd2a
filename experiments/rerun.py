"""Does a result come out again? Repeats an experiment from its own results.json, and compares every number.

    python -m experiments.rerun results/compare_optimizers/results.json

The options of the file are used, whatever the command line was. On one machine's CPU, with as many cores and the
same versions, all numbers are the same bit for bit. Times are not compared. Four experiments depend on the clock and
do not come out again: train_best_model, learn_textures, compare_architectures (its equal seconds) and benchmark. The
new results go to `--out`, with `rerun.json`: what differs. Exit code 0 if nothing does, else 1. It takes as long as the
experiment did.
"""

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import tyro
from rich.console import Console

from experiments.lab import cli, experiment, store
from experiments.lab.stops import Finished, UsageError

# How and when an experiment was made may differ, and so may anything timed.
UNCOMPARED = re.compile("command|date|python|options|versions|numerics|device|source|files|cores|.*seconds.*")
# Sections that say how results were made: told where they differ, and no failure.
MADE = ("versions", "numerics", "device", "source")
# Differences on the screen.
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
    if odd := [name for name in imported(vars(again)) if not allowed(name, home, options.allow_import)]:
        raise UsageError(f"{options.results} would run code of the module {odd[0]}: to let it, --allow-import {odd[0]}")
    try:
        # An experiment that could not read a part of its input writes its results, and exits.
        with contextlib.suppress(SystemExit):
            experiment.run(script, again)
    except Finished:
        raise UsageError(f"--out {out} holds these results already; name another, or pass --overwrite") from None
    after = read(out / store.RESULTS)
    found, compared = differences(before, after), sum(1 for _ in leaves(before))
    other = [
        f"{section} {name}: {before[section].get(name)}, now {after[section].get(name)}"
        for section in MADE
        for name in before[section]
        if before[section].get(name) != after[section].get(name)
    ]
    document = {"results": str(options.results), "compared": compared, "other": other}
    document["differences"] = [difference._asdict() for difference in found]
    store.add(out, "rerun.json", document)
    say(found, compared, other)
    if found:
        raise SystemExit(1)


def say(found: list[Difference], compared: int, other: list[str]) -> None:
    same = f"All {compared} values came out the same, bit for bit."
    lines = [f"{len(found)} of {compared} values differ:" if found else same]
    lines += [f"  {place}: {before}, now {after}" for place, before, after in found[:SHOWN]]
    lines += ["  ... (all of them in rerun.json)"] if len(found) > SHOWN else []
    lines += [f"Not made alike: {words}" for words in other]
    for line in lines:
        Console().print(line, highlight=False, markup=False)


def read(path: Path) -> dict[str, Any]:
    """A document that an experiment wrote; a UsageError for anything else."""
    try:
        document = store.read_document(path)
        if missing := [name for name in MADE if name not in document]:
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


def rebuild(document: dict[str, Any], out: Path, overwrite: bool) -> tuple[Any, Any]:
    """The script and its options, as the document says, for another folder and a process on its own."""
    name = str(document.get("experiment"))
    if name not in experiment.questions(Path(__file__).parent):
        raise UsageError(f"there is no experiment {name!r} to repeat")
    script = importlib.import_module(f"experiments.{name}")
    types = get_type_hints(script.Options)
    given = {**document["options"], "out": str(out), "overwrite": overwrite}
    # Whoever repeats it need not have the same workers.
    given |= {name: value for name, value in {"workers": 0, "cluster": ""}.items() if name in given}
    known = {field.name for field in dataclasses.fields(script.Options)}
    if odd := sorted(known.symmetric_difference(given)):
        raise UsageError(f"the results are of another version of {name}: its options differ by {', '.join(odd)}")
    return script, script.Options(**{field: _typed(value, types[field]) for field, value in given.items()})


def _typed(value: Any, kind: Any) -> Any:
    """A value of JSON in the type of its field."""
    if isinstance(value, list):
        return tuple(_typed(item, kind) for item in value)
    return Path(value) if isinstance(value, str) and "Path" in str(kind) else value


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
    cli.command(main, Options, {})

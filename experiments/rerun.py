"""Is a result reproducible? Repeats an experiment from its results.json, and compares every number.

    python -m experiments.rerun results/compare_optimizers/results.json

The options come from the file. On the same CPU, with the same number of cores and the same versions, all numbers are
the same, bit for bit. Times are not compared. Four experiments depend on the clock and are not reproducible:
train_best_model, learn_textures, compare_architectures (its equal seconds) and benchmark. The new results go to
`--out`, and the differences to `rerun.json` there. The exit code is 0 without differences, otherwise 1. It takes as
long as the experiment.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import msgspec
import tyro
from rich.console import Console

from experiments.lab import cli, folder, question
from experiments.lab.options import CHANGE_NO_RESULT, Command, Group
from experiments.lab.stops import Finished, UsageError

_Options = TypeVar("_Options", bound=Command)
# Sections that may differ.
IGNORED = ("command", "date", "python", "options", "versions", "numerics", "device", "source", "files")
# Sections whose differences are printed, and are no failure.
PROVENANCE = ("versions", "numerics", "device", "source")
# Most differences on the terminal.
MOST_PRINTED = 5


@dataclass(frozen=True)
class Options:
    """Repeats an experiment, and compares every number. If the results name an optimizer by an import path, this runs
    the code of its module."""

    results: tyro.conf.Positional[Path]  # results.json of the experiment.
    out: str = ""
    """Folder for the new results; by default the folder of the file with -rerun appended."""
    #: Start anew in a folder that already holds files.
    overwrite: bool = False
    #: Modules that the results may import, which runs their code. Modules of segjax and optax, and in the folder of the
    #: file, need not be named.
    allow_import: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.out:
            object.__setattr__(self, "out", f"{self.home}-rerun")

    @property
    def home(self) -> Path:
        """The folder of the results."""
        # `Path.resolve` raises for a link to itself.
        return Path(os.path.realpath(self.results)).parent


# The keys and indices that lead to a value of a document.
Place = tuple[str | int, ...]


class Difference(NamedTuple):
    """A value that is not the same; `place` is its path in the document."""

    place: str
    before: Any
    after: Any


def main(options: Options) -> None:
    before, out, finished = read(options.results), Path(options.out), None
    if out.resolve() == options.home:
        raise UsageError(f"--out {out} is the folder of the results themselves")
    script, rerun_options = rebuild(before, out, options.overwrite)
    for module in imported(rerun_options.flat):
        if not allowed(module, options.home, options.allow_import):
            raise UsageError(
                f"{options.results} would run code of the module {module}: to let it, --allow-import {module}"
            )
    comparison: dict[str, Any] = {}

    def compare(after: Mapping[str, Any]) -> dict[str, bytes]:
        comparison.update(results=str(options.results), compared=sum(1 for _ in leaves(before)))
        comparison.update(other=provenance_differences(before, after))
        comparison.update(differences=[difference._asdict() for difference in differences(before, after)])
        return {"rerun.json": json.dumps(comparison, indent=1).encode()}

    try:
        # An experiment that failed on a part of its input writes its results, then exits.
        with contextlib.suppress(SystemExit):
            question.run(script, rerun_options, compare)
    except Finished as error:
        # An earlier command has repeated the experiment, and may have been killed before it said so.
        finished = error
        compare(read(out / folder.RESULTS))
    say(comparison)
    if comparison["differences"]:
        raise SystemExit(1)
    if finished:
        raise finished


def say(comparison: Mapping[str, Any]) -> None:
    differing, compared = comparison["differences"], comparison["compared"]
    same = f"All {compared} values are the same, bit for bit."
    lines = [f"{len(differing)} of {compared} values differ:" if differing else same]
    lines += [f"  {row['place']}: {row['before']}, now {row['after']}" for row in differing[:MOST_PRINTED]]
    lines += ["  ... (all of them in rerun.json)"] if len(differing) > MOST_PRINTED else []
    lines += [f"Provenance differs: {text}" for text in comparison["other"]]
    for line in lines:
        Console().print(line, highlight=False, markup=False, emoji=False)


def read(path: Path) -> dict[str, Any]:
    """Reads the results.json of an experiment; raises a UsageError for anything else."""
    try:
        document = folder.read_document(path)
        if missing := [name for name in PROVENANCE if name not in document]:
            raise ValueError(f"it has no {missing[0]}")
        for place, value in leaves(document):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"its {text(place)} is {value}")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not the results.json of an experiment: {error}") from error
    return document


def imported(value: Any) -> list[str]:
    """The modules of all import paths, "MODULE:factory", in options."""
    if isinstance(value, dict):
        return imported((*value, *value.values()))
    if isinstance(value, list | tuple):
        return [name for item in value for name in imported(item)]
    # After a label too. FILE:X,Y,WIDTH,HEIGHT is none: no name of a factory begins with a digit.
    name = r"[^\W\d]\w*"
    return re.findall(rf"(?:^|=)({name}(?:\.{name})*):(?={name})", value) if isinstance(value, str) else []


def allowed(module: str, home: Path, named: Collection[str]) -> bool:
    """Whether a module may be imported: by its name, or because its file is in the folder of the results."""
    top = module.partition(".")[0]
    if top in ("segjax", "optax") or module in named:
        return True
    # The top level only, since finding a submodule imports its package.
    spec = find_spec(top)
    return bool(spec and spec.origin and Path(spec.origin).resolve().is_relative_to(home))


def rebuild(document: Mapping[str, Any], out: Path, overwrite: bool) -> tuple[Any, Any]:
    """The script and its options from a document, with another folder and without workers."""
    name = str(document.get("experiment"))
    if name not in question.questions(Path(__file__).parent):
        raise UsageError(f"there is no experiment {name!r} to repeat")
    script = importlib.import_module(f"experiments.{name}")
    changes = {"out": str(out), "overwrite": overwrite, "workers": 0, "cluster": "", "log": ""}
    try:
        return script, from_flat(script.Options, document["options"] | changes)
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise UsageError(f"the results are of another version of {name}: {error}") from error


def from_flat(kind: type[_Options], flat: Mapping[str, Any]) -> _Options:
    """Options from the flat dict of results.json, which may have more or fewer of those that change no result.

    Raises:
        ValueError: if it has other options than `kind`, or values of other types.
    """
    types = get_type_hints(kind)
    nested: dict[str, Any] = {}
    known: set[str] = set()
    for field in dataclasses.fields(kind):
        group = types[field.name]
        is_group = isinstance(group, type) and issubclass(group, Group)
        names = [option.name for option in dataclasses.fields(group)] if is_group else [field.name]
        values = {name: flat[name] for name in names if name in flat}
        nested |= {field.name: values} if is_group else values
        known |= set(names)
    if differing := sorted(known.symmetric_difference(flat).difference(CHANGE_NO_RESULT)):
        raise ValueError(f"its options differ by {', '.join(differing)}")
    options: _Options = msgspec.convert(nested, kind, dec_hook=lambda kind, value: kind(value))
    return options


def provenance_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Messages on the differences in provenance."""
    return [
        f"{section} {name}: {value}, now {after[section].get(name)}"
        for section in PROVENANCE
        for name, value in before[section].items()
        if value != after[section].get(name)
    ]


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """(place, value) of every value that is compared; an empty list or dict is a value, too."""
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else list(enumerate(value))
    if place and not items:
        yield place, value
    for key, item in items:
        if not is_ignored(inner := (*place, key)):
            yield from leaves(item, inner)


def is_ignored(place: Place) -> bool:
    """Whether values there may differ: provenance, and times. A label, which is a key as well, may have any name."""
    match place:
        case (str(section),):
            return section in IGNORED
        case (*_, int(), "seconds" | "cores") | ("summary", _, "seconds") | ("costs", _, "step_seconds"):
            return True
    return False


def text(place: Place) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).lstrip(".")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Every value that is not the same, or that only one of the documents has."""
    first, second = dict(leaves(before)), dict(leaves(after))
    return [
        Difference(text(place), first.get(place, "nothing"), second.get(place, "nothing"))
        for place in {**first, **second}
        # As JSON, in which true is not 1, and -0.0 not 0.0.
        if place not in first or place not in second or json.dumps(first[place]) != json.dumps(second[place])
    ]


if __name__ == "__main__":
    cli.command(main, Options, {})

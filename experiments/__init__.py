'''One question per file: `python -m experiments` lists them, `python -m experiments.NAME --help` shows its options.

    NAME.py       a question: its options, its presets, and one function, answer(options, lab) -> Report
    rerun.py      repeats an experiment from its results.json, and compares every number
    lab/          the core that all questions share; `lab/question.py` is the skeleton
    optimizers/   modules for questions about optimizers
    pictures/     reading pictures, and saved networks
    timed/        training by the clock
    bench/        the parts of the benchmark and of gpu_program
    notebook/     the notebook's published numbers, and its flaws

Your own question is one file, here or elsewhere; `python -m experiments.my_question quick` answers it:

    """Does a larger batch help? One network at several batch sizes, at equal steps."""

    from dataclasses import dataclass
    from pathlib import Path

    from experiments.lab import figures, question, tables
    from experiments.lab.arms import compare
    from experiments.lab.options import Comparison, Data, Seeds, Training
    from experiments.lab.report import Report

    @dataclass(frozen=True, kw_only=True)
    class Options(Comparison):
        """Trains at several batch sizes, paired over seeds."""

        multiples: tuple[int, ...] = (1, 4)  # Batch sizes, as multiples of --batch-size.
        out: Path = Path("results/my_question")

    QUICK = Options(data=Data(image_size=32), training=Training(iterations=60), seeds=Seeds(seeds=2))
    PRESETS = {"full": Options(), "quick": QUICK}

    def answer(options, lab):
        sizes = [options.data.batch_size * multiple for multiple in options.multiples]
        textures = [options.data.texture._replace(batch_size=size) for size in sizes]
        results = lab.train([options.run(seed, texture=texture) for texture in textures for seed in options.seeds])
        arms = compare(results, by=lambda run: f"batch {run.texture.batch_size}")
        table = tables.table(arms, f"{options.training.iterations} iterations: {options.seeds}")
        return Report([tables.leader(arms, "iou")], [table], {"predictions": figures.predictions(arms)}, arms)

    if __name__ == "__main__":
        question.main()

It has progress with the time left, checkpoints, one-line error messages, and results as figures, HTML, JSON and CSV.
'''

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from re import fullmatch

from experiments.lab import stops

# argv begins with "-m" while Python looks for a command's module. The imports that follow take seconds.
if sys.argv[:1] == ["-m"] and any(word.startswith("experiments") for word in sys.orig_argv):
    stops.install(lambda: "interrupted before it began")
    # Figures go to files, so a command needs no window.
    os.environ["MPLBACKEND"] = "agg"
    # With one digit rich prints nothing, or tyro never ends; without a number rich fails.
    if not fullmatch("[1-9][0-9]{1,3}", os.environ.get("COLUMNS", "")):
        os.environ.pop("COLUMNS", None)
    try:
        import_module("jax")
    except ValueError as error:
        # jax reads its variables, such as JAX_ENABLE_X64, when it is imported.
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error

if _missing := [name for name in ("tyro", "rich", "PIL", "jinja2", "msgspec") if find_spec(name) is None]:
    # Every command imports this first, so a missing package is one line and no traceback.
    print(f"error: the experiments need {', '.join(_missing)}: pip install '.[experiments]'", file=sys.stderr)
    raise SystemExit(2)

"""Can two photographs teach a network to tell their materials apart? Without a label: random masks make them.

    python -m experiments.learn_textures --first brick.png --second grass.png                   60 seconds
    python -m experiments.learn_textures --first brick.png --second grass.png --preset quick    10 seconds

Random crops of the two, flipped, turned and of changed contrast, are mixed by the notebook's smooth random masks. A
quarter of each photograph, a strip at its end, is kept apart: the network is judged on images made of those strips, as
they were photographed.

At the end `model.safetensors` is what `experiments.segment_image` takes. How the clock works is said in
`experiments.train_best_model`. Expect an accuracy of 0.95 or more for materials that a person tells apart at a glance.
"""

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

import segjax
from experiments import command, folder, networks, output, photographs, programs, timed
from experiments.report import Report, question
from segjax import plotting
from segjax.checks import check_positive, check_share
from segjax.exemplars import generate_crops

# Of each photograph, what training never sees.
HELD_OUT_SHARE = 0.25
# Photographs whose largest numbers differ by more were not brought to one scale.
MOST_APART = 10


@dataclass(frozen=True)
class Options(timed.Options):
    """Trains a network to tell two photographed materials apart."""

    preset: Literal["full", "quick"] = "full"
    """Defaults of all other options: the full time, or a short one."""
    first: Path | None = None
    """A photograph of the first material, PNG, JPEG or TIFF: nothing else should be on it."""
    second: Path | None = None
    """The same of the second, in the same light and at the same scale."""
    contrast: float = 0.2
    """Each crop's contrast is multiplied by a number from 1 - contrast to 1 + contrast."""
    max_megapixels: float = 50.0
    """Photographs of more million pixels than these are refused before they are unpacked."""
    out: Path = Path("results/learn_textures")

    def inputs(self) -> list[Path]:
        """Files that the results depend on."""
        return [path for path in (self.first, self.second) if path is not None]


PRESETS = {
    "full": Options(),
    "quick": Options(preset="quick", seconds=10.0, image_size=32, sigma=6.4, held_out=128),
}


def main(options: Options) -> None:
    with command.usage_errors():
        timed.check(options)
        check_share("--contrast", options.contrast)
        check_positive("--max-megapixels", options.max_megapixels)
        paths = options.inputs()
        if len(paths) < 2:
            raise ValueError("--first and --second are needed: photographs of the two materials")
        exemplars = [photographs.read(path, options.max_megapixels, options.image_size) for path in paths]
        low, high = sorted(float(np.abs(exemplar).max()) for exemplar in exemplars)
        if high > MOST_APART * low:
            raise ValueError(
                f"--first and --second are on different scales: the largest numbers are {low:g} and {high:g}"
            )
        parts = [split(path, exemplar, options.image_size) for path, exemplar in zip(paths, exemplars, strict=True)]
    folder.claim(options)
    console = Console()
    (first, first_strip), (second, second_strip) = parts
    size: dict[str, Any] = {"image_size": options.image_size, "sigma": options.sigma}
    generate = partial(generate_crops, first=first, second=second, contrast=options.contrast, **size)
    held_out = partial(generate_crops, first=first_strip, second=second_strip, contrast=0.0, **size)
    snapshots = timed.train(options, partial(generate, batch_size=options.batch_size), console)
    rows = timed.judge(options, snapshots, held_out, console)

    names = {"first": photographs.label(paths[0]), "second": photographs.label(paths[1])}
    saved = networks.save(
        options, snapshots[-1].variables, {"exemplars": {**names, **size, "contrast": options.contrast}}
    )
    timed.forget(options)
    last, title = rows[-1], photographs.figure_label(f"{names['first']} (first) and {names['second']} (second)")
    use = shlex.join(["python", "-m", "experiments.segment_image", str(saved), "IMAGE"])
    sentences = [
        f"After {last['seconds']:.1f} s, {last['step']} steps: accuracy {last['accuracy']:.4f}, IoU of the first "
        f"{last['iou']:.4f}, in evaluation mode, on {options.held_out} images of the held-out strips.",
        f"The model is saved; have it look at a picture with: {use}",
    ]
    figures = {
        "quality_over_time": timed.quality_figure(rows, title),
        "predictions": timed.predictions(
            options, snapshots, held_out(key=jax.random.key(programs.HELD_OUT_KEY)), title
        ),
        "training_images": examples(generate(key=jax.random.key(options.seed)), title),
    }
    report = Report(question(__doc__), sentences, [timed.table(rows)], figures, timed.warnings(rows))
    output.finish(options, {"experiment": "learn_textures", "snapshots": rows}, rows, report, console)


def split(path: Path, exemplar: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part to train on and, along the longer side, the strip at its end to be judged on.

    Raises:
        ValueError: if no crop fits into one of them.
    """
    axis = int(exemplar.shape[1] >= exemplar.shape[0])
    strip = max(image_size, round(HELD_OUT_SHARE * exemplar.shape[axis]))
    if exemplar.shape[axis] - strip < image_size:
        height, width = exemplar.shape
        raise ValueError(
            f"{path} has {width} x {height} pixels; its longer side must have twice the --image-size, "
            f"{2 * image_size}, for crops to train on and others to judge by"
        )
    trained, kept = np.split(exemplar, [exemplar.shape[axis] - strip], axis=axis)
    return trained, kept


def examples(batch: segjax.Batch, title: str) -> Figure:
    """Images and masks as training sees them."""
    rows: list[list[Any]] = [[], []]
    for image, mask in zip(batch.image[:4, ..., 0], batch.mask[:4, ..., 0], strict=True):
        rows[0].append(plotting.Picture("", image))
        rows[1].append(plotting.Picture("", mask, "mask"))
    return plotting.pictures(rows, f"What training sees: {title}", ("image", "mask"))


if __name__ == "__main__":
    command.run(main, Options, PRESETS)

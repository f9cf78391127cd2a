"""What do the textures look like, and how hard are they to tell apart? Galleries, and a map of the difficulty.

    python -m experiments.texture_gallery           128 x 128 pictures, a map of 6 sigmas
    python -m experiments.texture_gallery quick     64 x 64 pictures, a map of 3 sigmas

- `gallery`: images and masks at the sigmas of the notebook's first picture (0.2, 2.5; mask 15).
- `sigma_study`: the notebook's study of the sigmas: the same noise at sigma1 0.2, 1, 5, 10, with sigma2 larger by 0.2
  and by 1.
- `difficulty`: the held-out error of a small network, trained at each pair of sigmas for a few steps from the same
  initial weights. Swapping the two sigmas only swaps mask and background, so only half of the map is trained. On the
  diagonal the textures are the same, and the error is at chance.
- `best_possible`, `difference`: the error of Bayes' rule inside the textures at each pair, and the difference between
  the network's error and this one.

Expect the error to grow where the ratio of the sigmas is near 1, and where both are large. Below half a pixel all
sigmas look alike: an even grid has no point at 0, so each kernel is nearly the same box of 2 x 2 pixels.
Takes 2 minutes on 2 CPU cores, most of it for the map; quick, a minute.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import segjax
from experiments.lab import question
from experiments.lab.options import Command, Data, Seed
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.pictures import views
from segjax import metrics, oracle, plotting
from segjax._checks import check_count, check_sigma
from segjax.losses import binary_cross_entropy
from segjax.optimizers import adam
from segjax.schedules import cosine, scheduled

STUDY_SIGMAS, STUDY_GAPS = (0.2, 1.0, 5.0, 10.0), (0.2, 1.0)
MAP_BATCH, MAP_RATE = 4, 1e-2
# A pair of sigmas in the map, and its errors.
Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Draws the textures, and maps how hard they are to tell apart."""

    data: Data = Data(batch_size=4, sigma2=2.5, sigma=15.0)
    seed: Seed = Seed()
    map_sigmas: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # Sigmas on both axes of the map, in pixels.
    map_size: int = 64  # Height and width of the images of the map, in pixels.
    map_steps: int = 150  # Training steps at each pair of the map.
    out: Path = Path("results/texture_gallery")

    def check(self) -> None:
        super().check()
        for sigma in self.map_sigmas:
            check_sigma("--map-sigmas", sigma)
        if len(set(self.map_sigmas)) < max(2, len(self.map_sigmas)):
            raise ValueError("--map-sigmas must be at least two different numbers of pixels")
        check_count("--map-size", self.map_size, 2)
        check_count("--map-steps", self.map_steps, 1)

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.seed.seed)


PRESETS = {
    "full": Options(),
    "quick": Options(
        data=Data(batch_size=4, image_size=64, sigma2=2.5, sigma=8.0),
        map_sigmas=(0.2, 1.0, 5.0),
        map_size=32,
        map_steps=300,
    ),
}


def answer(options: Options, lab: Lab) -> Report:
    rows = measure(options, lab)
    ranked = sorted(rows, key=lambda row: row["error"])
    drawings = {"gallery": gallery(options), "sigma_study": sigma_study(options), **maps(options, rows)}
    return Report(findings(ranked), [table(options, ranked)], drawings, results={"difficulty": rows}, rows=rows)


def measure(options: Options, lab: Lab) -> list[Row]:
    """The held-out error at each pair sigma1 < sigma2: one compiled program, since the sigmas are traced."""
    model = segjax.SegmentationCNN(num_channels=8, shared_norm=False)
    data = Data(image_size=options.map_size, batch_size=MAP_BATCH).texture._asdict()
    train_key, held_out_key = jax.random.split(options.key)

    @jax.jit
    def error(sigma1: jax.Array, sigma2: jax.Array) -> jax.Array:
        texture: dict[str, Any] = {**data, "sigma1": sigma1, "sigma2": sigma2}
        # The rate falls to 0, so that the running statistics of the BatchNorms match the final weights.
        optimizer, steps = scheduled(adam, cosine, options.map_steps), options.map_steps
        train = segjax.make_train(model, optimizer=optimizer, loss=binary_cross_entropy, num_steps=steps, **texture)
        state, _ = train(train_key, MAP_RATE)
        return 1 - metrics.accuracy(segjax.evaluate(held_out_key, model, state.variables, **texture))

    pairs = list(itertools.combinations(sorted(options.map_sigmas), 2))
    window, rows = min(model.receptive_field, options.map_size), []
    with lab.progress() as progress:
        for pair in progress.track(pairs, description="mapping the difficulty"):
            network = float(error(*map(jnp.float32, pair)))
            best, deviation = oracle.interior_error(held_out_key, *pair, window=window, image_size=options.map_size)
            row = {"sigma1": pair[0], "sigma2": pair[1], "error": network, "best_possible": best}
            rows.append({**row, "best_possible_error": deviation})
    return rows


def findings(rows: Sequence[Row]) -> list[str]:
    """Sentences on the rows, which are sorted by the network's error."""
    easy, hard = rows[0], rows[-1]
    far = max(rows, key=lambda row: row["error"] - row["best_possible"])
    return [
        f"Easiest: {easy['sigma1']:g} against {easy['sigma2']:g} pixels ({easy['error']:.1%} of pixels wrong). "
        f"Hardest: {hard['sigma1']:g} against {hard['sigma2']:g} ({hard['error']:.1%}).",
        f"Furthest from the best possible: {far['sigma1']:g} against {far['sigma2']:g}, "
        f"{far['error']:.1%} where Bayes' rule has {far['best_possible']:.1%} inside the textures.",
    ]


def table(options: Options, rows: Sequence[Row]) -> Table:
    cells = []
    for row in rows:
        ratio, pair = row["sigma2"] / row["sigma1"], [f"{row[name]:g}" for name in ("sigma1", "sigma2")]
        cells.append([*pair, f"{ratio:.2f}", *(f"{row[name]:.3f}" for name in ("error", "best_possible"))])
    note = (
        f"One network and one seed ({options.seed.seed}) per pair; chance is 0.5. Best possible: Bayes' rule on "
        "windows as large as the receptive field, each in one texture; a network also errs at the mask's edges."
    )
    headings = ("sigma1", "sigma2", "ratio", "held-out error", "best possible")
    return Table("Pairs of sigmas, from easy to hard", headings, cells, note)


def maps(options: Options, rows: Sequence[Row]) -> dict[str, Drawing]:
    """Heat maps over the pairs of sigmas: the network's error, the least possible one, and their difference."""
    network, best = (error_map(options, rows, name) for name in ("error", "best_possible"))
    after = f"Error of a network after {options.map_steps} steps"
    contents = {
        "difficulty": (network, after, "share of wrong held-out pixels"),
        "best_possible": (best, "Least possible error inside the textures", "share of wrong windows"),
        "difference": (network - best, "Error of the network minus the least possible", "difference of the shares"),
    }
    names, size, axes = [f"{sigma:g}" for sigma in options.map_sigmas], options.map_size, ("sigma1", "sigma2")
    drawings = {}
    for name, (errors, heading, label) in contents.items():
        labels, title = (*(f"{axis} (pixels)" for axis in axes), label), f"{heading}, {size} x {size} images"
        drawings[name] = Drawing(heading, plotting.heatmap(errors, names, names, labels, ".3f", title))
    return drawings


def error_map(options: Options, rows: Sequence[Row], column: str) -> np.ndarray:
    """(sigmas, sigmas): symmetric, and chance on the diagonal, where the textures are the same."""
    position = {sigma: index for index, sigma in enumerate(options.map_sigmas)}
    errors = np.full((len(position), len(position)), 0.5)
    for row in rows:
        first, second = position[row["sigma1"]], position[row["sigma2"]]
        errors[first, second] = errors[second, first] = row[column]
    return errors


def gallery(options: Options) -> Drawing:
    """One column per image: the image above its mask."""
    texture = options.data.texture
    title = (
        f"sigma1 {texture.sigma1:g} in the mask (yellow), sigma2 {texture.sigma2:g} outside; "
        f"mask sigma {texture.sigma:g} pixels"
    )
    batch = segjax.generate_data(options.key, **texture._asdict())
    return Drawing("Images and their masks", views.above_masks(batch, title))


def sigma_study(options: Options) -> Drawing:
    """One row per sigma1: the mask, and the image at each gap, all from the same noise."""
    size, sigma = options.data.image_size, options.data.texture.sigma
    noise = jax.random.normal(options.key, (3, 1, size, size))
    grid = []
    for sigma1 in STUDY_SIGMAS:
        batches = [segjax.compose_batch(noise, sigma1, sigma1 + gap, sigma) for gap in STUDY_GAPS]
        row = [plotting.Picture("mask", batches[0].mask[0, ..., 0], "mask")]
        for gap, batch in zip(STUDY_GAPS, batches, strict=True):
            row.append(plotting.Picture(f"sigma2 = {sigma1 + gap:g}", batch.image[0, ..., 0]))
        grid.append(row)
    names = [f"sigma1 = {sigma1:g}" for sigma1 in STUDY_SIGMAS]
    title = f"The same noise at several sigmas (pixels); mask sigma {sigma:g}"
    return Drawing("The same noise at several sigmas", plotting.pictures(grid, title, names))


if __name__ == "__main__":
    question.main()

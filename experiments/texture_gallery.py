"""What do the textures look like, and how hard are they to tell apart? Galleries, and a map of the difficulty.

    python -m experiments.texture_gallery                    128 x 128 pictures, a map of 6 widths
    python -m experiments.texture_gallery --preset quick     64 x 64 pictures, a map of 3 widths

- `gallery`: images and masks at the widths of the notebook's first picture (0.2, 2.5; mask 15).
- `sigma_study`: the notebook's study of the widths: the same noise at sigma1 0.2, 1, 5, 10, with sigma2 larger by 0.2
  and by 1.
- `best_possible`, `difference`: the error of Bayes' rule inside the textures at each pair, and what the network misses.
- `difficulty`: the held-out error of one small network, trained from the same start for a few steps at each pair.
  Swapping the two widths only swaps mask and background, so half of the map is trained; on the diagonal there is
  nothing to tell apart, and the error is chance.

Expect the error to grow where the ratio of the widths is near 1, and where both are large. Below half a pixel all
widths look alike: an even grid has no point at 0, so each kernel is nearly the same box of 2 x 2 pixels.
Takes 2 minutes on 2 CPU cores, most of it for the map; quick, a minute.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

import segjax
from experiments.lab import experiment
from experiments.lab.options import Command
from experiments.lab.report import Report, Table
from experiments.lab.train import progress_bar
from segjax import metrics, oracle, plotting
from segjax._checks import check_count, check_sigma
from segjax.losses import binary_cross_entropy
from segjax.optimizers import adam
from segjax.schedules import cosine, scheduled

STUDY_SIGMAS, STUDY_GAPS = (0.2, 1.0, 5.0, 10.0), (0.2, 1.0)
GALLERY_IMAGES = 4
# The mask's field of the map, as a share of the image: the notebook's training has n / 5.
MAP_SHARE, MAP_BATCH, MAP_RATE = 1 / 5, 4, 1e-2


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Draws the textures, and maps how hard they are to tell apart."""

    image_size: int = 128
    """Height and width of the pictures, in pixels."""
    sigma1: float = 0.2
    """Width of the texture inside the mask in the gallery, in pixels."""
    sigma2: float = 2.5
    """Width of the texture outside the mask in the gallery, in pixels."""
    sigma: float = 15.0
    """Width of the mask's smooth field in the pictures, in pixels."""
    map_sigmas: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # Widths on both axes of the map, in pixels.
    map_size: int = 64  # Height and width of the images of the map, in pixels.
    map_steps: int = 150  # Training steps at each pair of the map.
    seed: int = 0
    """Seed of every picture, and of the map's network."""
    out: Path = Path("results/texture_gallery")

    def check(self) -> None:
        super().check()
        for sigma in self.map_sigmas:
            check_sigma("--map-sigmas", sigma)
        if len(set(self.map_sigmas)) < max(2, len(self.map_sigmas)):
            raise ValueError("--map-sigmas must be at least two different widths")
        check_count("--map-size", self.map_size, 2)
        check_count("--map-steps", self.map_steps, 1)


PRESETS = {
    "full": Options(),
    "quick": Options(image_size=64, sigma=8.0, map_sigmas=(0.2, 1.0, 5.0), map_size=32, map_steps=300),
}


def work(options: Options, console: Console) -> list[dict[str, float]]:
    """The held-out error at each pair sigma1 < sigma2: one compiled program, since the widths are traced."""
    model = segjax.SegmentationCNN(num_channels=8, shared_norm=False)
    size = options.map_size
    texture: dict[str, Any] = {"batch_size": MAP_BATCH, "image_size": size, "sigma": size * MAP_SHARE}
    train_key, held_out_key = jax.random.split(jax.random.key(options.seed))

    @jax.jit
    def error(sigma1: jax.Array, sigma2: jax.Array) -> jax.Array:
        widths = {"sigma1": sigma1, "sigma2": sigma2, **texture}
        # The rate comes down, so that the running statistics of the BatchNorms are those of the last weights.
        optimizer, steps = scheduled(adam, cosine, options.map_steps), options.map_steps
        train = segjax.make_train(model, optimizer=optimizer, loss=binary_cross_entropy, num_steps=steps, **widths)
        state, _ = train(train_key, MAP_RATE)
        return 1 - metrics.accuracy(segjax.evaluate(held_out_key, model, state.variables, **widths))

    pairs, window = list(itertools.combinations(sorted(options.map_sigmas), 2)), min(model.receptive_field, size)
    rows = []
    with progress_bar(console) as progress:
        for first, second in progress.track(pairs, description="mapping the difficulty"):
            network = float(error(jnp.float32(first), jnp.float32(second)))
            best, deviation = oracle.interior_error(held_out_key, first, second, window=window, image_size=size)
            row = {"sigma1": first, "sigma2": second, "error": network, "best_possible": best}
            rows.append({**row, "best_possible_error": deviation})
    return rows


def report(options: Options, rows: list[dict[str, float]]) -> Report:
    ranked = sorted(rows, key=lambda row: row["error"])
    cells = [
        [
            *(f"{row[name]:g}" for name in ("sigma1", "sigma2")),
            f"{row['sigma2'] / row['sigma1']:.2f}",
            *(f"{row[name]:.3f}" for name in ("error", "best_possible")),
        ]
        for row in ranked
    ]
    note = (
        f"One network and one seed ({options.seed}) a pair; chance is 0.5. Best possible: Bayes' rule on as many "
        "pixels as the network sees, all in one texture; a network also errs at the edges of the mask."
    )
    headings = ("sigma1", "sigma2", "ratio", "held-out error", "best possible")
    table = Table("Easiest to hardest pair of widths", headings, cells, note)
    names = [f"{sigma:g}" for sigma in options.map_sigmas]
    size = f"{options.map_size} x {options.map_size} images"
    network, best = (error_map(options, rows, name) for name in ("error", "best_possible"))
    maps = {
        "difficulty": (network, "share of held-out pixels wrong", f"Error after {options.map_steps} steps, {size}"),
        "best_possible": (best, "share of windows wrong", f"Least possible error inside the textures, {size}"),
        "difference": (network - best, "share of pixels", f"What the network misses: its error less the least, {size}"),
    }
    figures = {"gallery": gallery(options), "sigma_study": sigma_study(options)}
    for name, (values, label, title) in maps.items():
        labels = ("sigma1 (pixels)", "sigma2 (pixels)", label)
        figures[name] = plotting.heatmap(values, names, names, labels, ".3f", title)
    return Report(finding(ranked), [table], figures, {"difficulty": rows}, rows)


def gallery(options: Options) -> Figure:
    """A column an image, its mask under it."""
    sigmas = (options.sigma1, options.sigma2, options.sigma)
    batch = segjax.generate_data(jax.random.key(options.seed), GALLERY_IMAGES, options.image_size, *sigmas)
    images, masks = np.asarray(batch.image)[..., 0], np.asarray(batch.mask)[..., 0]
    grid = [[plotting.Picture("", image) for image in images], [plotting.Picture("", mask, "mask") for mask in masks]]
    title = "sigma1 {:g} in the mask (yellow), sigma2 {:g} outside; mask sigma {:g} pixels".format(*sigmas)
    return plotting.pictures(grid, title, ("image", "mask"))


def sigma_study(options: Options) -> Figure:
    """A row for each sigma1: the mask, and the image at each gap, all from one noise."""
    # The same noise at every width, so that the eye compares widths and not draws.
    noise = jax.random.normal(jax.random.key(options.seed), (3, 1, options.image_size, options.image_size))
    grid = []
    for sigma1 in STUDY_SIGMAS:
        batches = [segjax.compose_batch(noise, sigma1, sigma1 + gap, options.sigma) for gap in STUDY_GAPS]
        row = [plotting.Picture("mask", batches[0].mask[0, ..., 0], "mask")]
        for gap, batch in zip(STUDY_GAPS, batches, strict=True):
            row.append(plotting.Picture(f"sigma2 = {sigma1 + gap:g}", batch.image[0, ..., 0]))
        grid.append(row)
    names = [f"sigma1 = {sigma1:g}" for sigma1 in STUDY_SIGMAS]
    return plotting.pictures(grid, f"The same noise at several widths (pixels); mask sigma {options.sigma:g}", names)


def error_map(options: Options, rows: list[dict[str, float]], column: str) -> np.ndarray:
    """(widths, widths): symmetric, and chance on the diagonal, where there is nothing to tell apart."""
    place = {sigma: index for index, sigma in enumerate(options.map_sigmas)}
    errors = np.full((len(place), len(place)), 0.5)
    for row in rows:
        first, second = place[row["sigma1"]], place[row["sigma2"]]
        errors[first, second] = errors[second, first] = row[column]
    return errors


def finding(ranked: list[dict[str, float]]) -> list[str]:
    easy, hard = ranked[0], ranked[-1]
    missed = max(ranked, key=lambda row: row["error"] - row["best_possible"])
    return [
        f"Easiest: {easy['sigma1']:g} against {easy['sigma2']:g} pixels ({easy['error']:.1%} of pixels wrong). "
        f"Hardest: {hard['sigma1']:g} against {hard['sigma2']:g} ({hard['error']:.1%}).",
        f"Furthest from the best possible: {missed['sigma1']:g} against {missed['sigma2']:g}, {missed['error']:.1%} "
        f"where Bayes' rule has {missed['best_possible']:.1%} inside the textures.",
    ]


if __name__ == "__main__":
    experiment.main()

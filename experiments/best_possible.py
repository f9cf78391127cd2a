"""How good can a segmentation be? The best possible error beside that of the notebook's network and of a better one.

    python -m experiments.best_possible             64 x 64 images, windows up to 9 x 9, four pairs of textures
    python -m experiments.best_possible quick       32 x 32 images, windows up to 5 x 5, one pair
    python -m experiments.best_possible --windows 9 17 --num-masks 20000 --image-size 128

The distribution of the textures is known, so Bayes' rule gives the best prediction from a window around each pixel
(`segjax.oracle`, docs/best-possible.md). All predictions are evaluated on the same pixels of the same images, away from
the border:

- against the size of the window that Bayes' rule uses;
- against sigma2, at the largest window;
- by the distance to the true edge.

Bayes' rule has two errors: the one that it expects, and the one that is observed. A warning says that --num-masks is
too small for a window if the observed error exceeds the expected one by more than three standard errors. The expected
error is then too low, and a better classifier may exist than the observed one. Expect the notebook's network at two to
four times the best possible error, nearly all of it within two pixels of the edge. About 15 minutes on 2 CPU cores;
quick, a minute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import segjax
from experiments.lab import figures, question, tables
from experiments.lab.arms import ERRORS_AT
from experiments.lab.names import ARCHITECTURES, exact
from experiments.lab.options import Comparison, Data, Seeds, Training
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.runs import Result, Texture
from segjax import edges, oracle, plotting
from segjax._checks import check_count, check_sigma

# The notebook's network as it is trained there, and the best that we know, with the loss and the peak rate of
# `train_best_model`: here over the whole cosine, and on batches of 8.
NETWORKS: Mapping[str, dict[str, Any]] = {
    "notebook": {"architecture": "notebook", "learning_rate": 1e-3},
    "patch": {"architecture": "patch", "learning_rate": 6e-3, "objective": "bce", "schedule": "warmup_cosine"},
}
# Seed of the evaluated images. The held-out images of the runs are others, all of them rescaled.
EVALUATED_KEY = 20261126
# Middles of `edges.BAND_NAMES` in pixels. The last band has no end; its point stands where the next doubling leads.
MIDDLES = (0.5, 1.5, 3.0, 6.0, 12.0)
YLABEL = "share of wrong pixels"


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Compares Bayes' rule, the notebook's network and a better one on the same pixels."""

    data: Data = Data(image_size=64)
    windows: tuple[int, ...] = (1, 3, 5, 9)  # Sides of the windows that Bayes' rule uses, in pixels, odd.
    sigma2s: tuple[float, ...] = (0.5, 0.8, 1.2, 2.0)
    """Values of sigma2, in pixels, at the largest window; windows and distances are compared at --sigma2."""
    num_masks: int = 2000  # Masks over which Bayes' rule sums.
    num_images: int = 16  # Images on which all predictions are evaluated.
    out: Path = Path("results/best_possible")

    def check(self) -> None:
        super().check()
        check_count("--num-masks", self.num_masks, 2)
        check_count("--num-images", self.num_images, 2)
        for window in self.windows:
            if not check_count("--windows", window, 1, self.data.image_size) % 2:
                raise ValueError(f"--windows must be odd, to have a centre, got {window}")
        for sigma2 in self.sigma2s:
            check_sigma("--sigma2s", sigma2)
        for name, values in (("--windows", self.windows), ("--sigma2s", self.sigma2s)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be different numbers, at least one")
        if self.data.image_size <= 2 * self.margin:
            raise ValueError(f"--image-size must be above {2 * self.margin} for these windows and textures")

    @property
    def all_sigma2s(self) -> list[float]:
        """Every sigma2, with that of the windows and distances."""
        return sorted({*self.sigma2s, self.data.sigma2})

    @property
    def margin(self) -> int:
        """Pixels at the border that no prediction is evaluated on."""
        return max(oracle.margin(max(self.windows), self.data.sigma1, sigma2) for sigma2 in self.all_sigma2s)

    def texture(self, sigma2: float) -> Texture:
        return self.data.texture._replace(sigma2=sigma2)


PRESETS = {
    "full": Options(),
    "quick": Options(
        data=Data(image_size=32),
        training=Training(iterations=100),
        seeds=Seeds(seeds=1),
        windows=(1, 5),
        sigma2s=(1.2,),
        num_masks=300,
        num_images=8,
    ),
}


class Error(NamedTuple):
    """The error of a prediction on the evaluated pixels.

    Attributes:
        mean: share of wrong pixels.
        standard_error: of the mean, over images.
        by_distance: (5,), the mean at each distance to the true edge; NaN where no pixel is.
    """

    mean: float
    standard_error: float
    by_distance: np.ndarray

    @property
    def columns(self) -> dict[str, Any]:
        bands = dict(zip(ERRORS_AT, self.by_distance, strict=True))
        return {"error": self.mean, "standard_error": self.standard_error, **bands}


# The error that Bayes' rule expects, and the one that is observed.
KINDS = ("expected", "observed")
# (window, sigma2) -> kind -> the error of Bayes' rule, and (network, sigma2) -> the observed error of each seed.
BayesErrors = Mapping[tuple[int, float], Mapping[str, Error]]
NetworkErrors = Mapping[tuple[str, float], Sequence[Error]]


def answer(options: Options, lab: Lab) -> Report:
    sigma2, largest = options.data.sigma2, max(options.windows)
    runs = {
        (name, value): [options.run(seed, texture=options.texture(value), **NETWORKS[name]) for seed in options.seeds]
        for value in options.all_sigma2s
        for name in NETWORKS
    }
    results = {result.run: result for result in lab.train([run for group in runs.values() for run in group])}
    windows = [(window, sigma2) for window in options.windows]
    windows += [(largest, value) for value in options.all_sigma2s if value != sigma2]
    posteriors = {(window, value): posterior(options, window, value, lab) for window, value in windows}
    predictions = {pair: [predict(options, results[run]) for run in group] for pair, group in runs.items()}

    bayes = {pair: evaluate(options, probability) for pair, probability in posteriors.items()}
    networks = {
        pair: [evaluate(options, probability)["observed"] for probability in group]
        for pair, group in predictions.items()
    }
    rows = error_rows(options, bayes, networks)
    distances = {f"Bayes' rule, {kind}": bayes[largest, sigma2][kind].by_distance[None] for kind in KINDS}
    distances |= {name: np.stack([error.by_distance for error in networks[name, sigma2]]) for name in NETWORKS}
    first = {f"Bayes' rule, {largest} x {largest}": posteriors[largest, sigma2][0]}
    first |= {name: predictions[name, sigma2][0][0] for name in NETWORKS}
    return Report(
        findings(options, bayes, networks),
        [
            window_table(options, bayes, networks),
            sigma2_table(options, bayes, networks),
            distance_table(distances),
        ],
        {**drawings(options, bayes, networks, distances), "predictions": first_image(options, first)},
        results={"errors": rows},
        rows=rows,
        warnings=warnings(bayes) + tables.seeds_warning(options.seeds.seeds),
    )


def images(options: Options, sigma2: float, rescaled: bool) -> segjax.Batch:
    """The evaluated images: rescaled as networks take them, or as the generative model draws them."""
    texture = {**options.texture(sigma2)._asdict(), "batch_size": options.num_images}
    return segjax.generate_data(jax.random.key(EVALUATED_KEY), **texture, rescaled=rescaled)


def posterior(options: Options, window: int, sigma2: float, lab: Lab) -> np.ndarray:
    """(images, n, n), probability of the mask by Bayes' rule, NaN at the border.

    A note keeps it, since it can take as long as the training.
    """
    texture = options.texture(sigma2)
    name, settings = f"bayes-{window}-{exact(sigma2)}", {**texture._asdict(), "window": window}
    settings |= {"masks": options.num_masks, "images": options.num_images, "border": options.margin}
    if (note := lab.folder.read_note(name)) and note[1] == settings:
        return np.asarray(note[0]["probability"])
    with lab.progress() as progress:
        bar = progress.add_task(f"Bayes' rule, {window} x {window}, sigma2 {sigma2:g}", total=options.num_masks)
        probability = oracle.posterior(
            jax.random.key(options.seeds.seed),
            images(options, sigma2, rescaled=False).image,
            *(texture.sigma1, texture.sigma2, texture.sigma),
            window=window,
            num_masks=options.num_masks,
            border=options.margin,
            progress=lambda done, _: progress.update(bar, completed=done),
        )
    lab.folder.write_note(name, {"probability": probability}, settings)
    return probability


def predict(options: Options, result: Result) -> np.ndarray:
    """(images, n, n), probability of the mask by a network.

    Batches have the size of training: the notebook's network predicts with their statistics.
    """
    model = ARCHITECTURES[result.run.architecture]
    image = images(options, result.run.texture.sigma2, rescaled=True).image
    probability = jax.jit(lambda batch: jax.nn.sigmoid(segjax.predict(model, result.variables, batch)[..., 0]))
    size = options.data.batch_size
    return np.concatenate([probability(image[start : start + size]) for start in range(0, options.num_images, size)])


def evaluate(options: Options, probability: np.ndarray) -> dict[str, Error]:
    """Kind -> the error of a prediction: min(p, 1 - p) is expected; the masks decide which pixels are wrong."""
    # Every sigma2 has the same masks.
    mask = np.asarray(images(options, options.data.sigma2, rescaled=True).mask[..., 0]) > 0.5
    inner = (slice(None), *(slice(options.margin, -options.margin),) * 2)
    # Edges outside of the inner part count, too.
    band = np.searchsorted(edges.BANDS, np.asarray(edges.edge_distance(jnp.asarray(mask)))[inner])

    def error(wrong: np.ndarray) -> Error:
        wrong = wrong[inner].astype(float)
        bands = [wrong[band == index] for index in range(len(MIDDLES))]
        by_distance = np.array([pixels.mean() if pixels.size else np.nan for pixels in bands])
        # The pixels of one image are not independent.
        per_image = wrong.mean(axis=(1, 2))
        standard_error = per_image.std(ddof=1) / np.sqrt(len(per_image))
        return Error(float(per_image.mean()), float(standard_error), by_distance)

    return {"expected": error(np.minimum(probability, 1 - probability)), "observed": error((probability > 0.5) != mask)}


def error_rows(options: Options, bayes: BayesErrors, networks: NetworkErrors) -> list[dict[str, Any]]:
    """One row per error, as runs.csv has them."""
    rows = [
        {"what": f"Bayes' rule, {kind}", "window": window, "sigma2": sigma2, "seed": None, **error.columns}
        for (window, sigma2), errors in bayes.items()
        for kind, error in errors.items()
    ]
    for (name, sigma2), errors_of_seeds in networks.items():
        field = ARCHITECTURES[name].receptive_field
        rows += [
            {"what": name, "window": field, "sigma2": sigma2, "seed": seed, **error.columns}
            for seed, error in zip(options.seeds, errors_of_seeds, strict=True)
        ]
    return rows


def findings(options: Options, bayes: BayesErrors, networks: NetworkErrors) -> list[str]:
    sigma1, sigma2, window = options.data.sigma1, options.data.sigma2, max(options.windows)
    expected, observed = (bayes[window, sigma2][kind] for kind in KINDS)
    sentences = [
        f"sigma {sigma1:g} against {sigma2:g}: Bayes' rule on {window} x {window} pixels expects an error of "
        f"{expected.mean:.2%} (+- {expected.standard_error:.2%}); {observed.mean:.2%} is observed."
    ]
    for name in NETWORKS:
        error, field = mean(networks[name, sigma2]), ARCHITECTURES[name].receptive_field
        ratio = f", {error / expected.mean:.1f} times what Bayes' rule expects" if expected.mean > 0 else ""
        sentences.append(f"{name}, with a receptive field of {field} x {field}, has an error of {error:.2%}{ratio}.")
    return sentences


def warnings(bayes: BayesErrors) -> list[str]:
    """Windows for which the masks were too few, by the gap between the two errors of Bayes' rule."""
    sentences = []
    for (window, sigma2), errors in bayes.items():
        expected, observed = (errors[kind] for kind in KINDS)
        # At two standard errors, one of the seven windows and sigmas would warn by chance in one report of seven.
        if observed.mean - expected.mean > 3 * np.hypot(expected.standard_error, observed.standard_error):
            sentences.append(
                f"At {window} x {window} pixels, sigma2 {sigma2:g}, more --num-masks are needed: Bayes' rule expects "
                f"an error of {expected.mean:.2%}, and {observed.mean:.2%} is observed."
            )
    return sentences


def window_table(options: Options, bayes: BayesErrors, networks: NetworkErrors) -> Table:
    sigma2 = options.data.sigma2
    rows = [
        [f"Bayes' rule, {window} x {window}", *(_cell(bayes[window, sigma2][kind]) for kind in KINDS)]
        for window in options.windows
    ]
    for name in NETWORKS:
        field = ARCHITECTURES[name].receptive_field
        rows.append([f"{name}, receptive field {field} x {field}", "-", _spread(networks[name, sigma2])])
    note = (
        "Expected: the mean of min(p, 1 - p); observed: the share of wrong pixels; +- a standard error over images. "
        f"Networks: {options.seeds}."
    )
    return Table(f"Error (%) at sigma2 {sigma2:g}", ("", "expected", "observed"), rows, note)


def sigma2_table(options: Options, bayes: BayesErrors, networks: NetworkErrors) -> Table:
    window = max(options.windows)
    rows = [
        [
            f"{sigma2:g}",
            *(_cell(bayes[window, sigma2][kind]) for kind in KINDS),
            *(_spread(networks[name, sigma2]) for name in NETWORKS),
        ]
        for sigma2 in options.all_sigma2s
    ]
    headings = ("sigma2", f"Bayes' rule, {window} x {window}: expected", "observed", *NETWORKS)
    return Table(f"Error (%) against sigma2, at sigma1 {options.data.sigma1:g}", headings, rows)


def distance_table(distances: Mapping[str, np.ndarray]) -> Table:
    rows = [
        [name, *(f"{100 * error:.2f}" if np.isfinite(error) else "-" for error in errors.mean(axis=0))]
        for name, errors in distances.items()
    ]
    note = "Pixels from the true edge; Bayes' rule on the largest window."
    return Table("Error (%) by distance", ("", *edges.BAND_NAMES), rows, note)


def window_panel(options: Options, bayes: BayesErrors, networks: NetworkErrors) -> plotting.Panel:
    sigma2 = options.data.sigma2
    curves = {
        f"Bayes' rule, {kind}": np.array([bayes[window, sigma2][kind].mean for window in options.windows])
        for kind in KINDS
    }
    levels = {
        f"{name}, receptive field {ARCHITECTURES[name].receptive_field}": mean(networks[name, sigma2])
        for name in NETWORKS
    }
    x = np.array(options.windows, float)
    return plotting.Panel(YLABEL, curves, log=True, x=x, xlabel="side of the window (pixels)", horizontal_lines=levels)


def sigma2_panel(options: Options, bayes: BayesErrors, networks: NetworkErrors) -> plotting.Panel:
    sigma2s, largest = options.all_sigma2s, max(options.windows)
    curves = {
        f"Bayes' rule, {largest} x {largest}": np.array([bayes[largest, sigma2]["expected"].mean for sigma2 in sigma2s])
    }
    for name in NETWORKS:
        errors = [[error.mean for error in networks[name, sigma2]] for sigma2 in sigma2s]
        curves[name] = np.array(errors).T
    return plotting.Panel(YLABEL, curves, log=True, x=np.array(sigma2s), xlabel="sigma2 (pixels)")


def drawings(
    options: Options, bayes: BayesErrors, networks: NetworkErrors, distances: Mapping[str, np.ndarray]
) -> dict[str, Drawing]:
    """Errors against distance, window and sigma2."""
    xlabel = "distance to the true edge (pixels)"
    by_distance = plotting.Panel(YLABEL, distances, x=np.array(MIDDLES), xlabel=xlabel)
    at_sigma2 = f"sigma2 {options.data.sigma2:g}"
    panels = {"by_distance": ("Error by the distance to the true edge", at_sigma2, by_distance)}
    # A single point is no curve.
    if len(options.windows) > 1:
        panel = window_panel(options, bayes, networks)
        panels["over_window"] = ("Error against the size of the window", at_sigma2, panel)
    if len(options.all_sigma2s) > 1:
        panel = sigma2_panel(options, bayes, networks)
        panels["over_sigma2"] = ("Error against sigma2", f"sigma1 {options.data.sigma1:g}", panel)
    setting = f"{options.num_images} images of {options.data.size}, {options.seeds}"
    return {
        name: Drawing(heading, plotting.training_curves([panel], f"{heading}, {fixed}: {setting}"))
        for name, (heading, fixed, panel) in panels.items()
    }


def first_image(options: Options, predictions: Mapping[str, np.ndarray]) -> Drawing:
    """The first evaluated image beside its predictions."""
    sigma2 = options.data.sigma2
    title = f"The first image, seed {options.seeds.seed}, sigma2 {sigma2:g}; grey frame: not evaluated"
    figure = figures.beside_mask(images(options, sigma2, rescaled=True), predictions, title)
    return Drawing("An image and its predictions", figure)


def mean(errors: Sequence[Error]) -> float:
    """The mean error over seeds."""
    return float(np.mean([error.mean for error in errors]))


def _cell(error: Error) -> str:
    return f"{100 * error.mean:.2f}\n+- {100 * error.standard_error:.2f}"


def _spread(errors: Sequence[Error]) -> str:
    return tables.spread(100 * np.array([error.mean for error in errors]), ".2f")


if __name__ == "__main__":
    question.main()

"""How good can a segmentation be? The best possible error, and those of the notebook's network and of a better one.

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
error is then too low, and a classifier better than the observed one may exist. Expect the notebook's network at two to
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
from experiments.lab import question, tables
from experiments.lab.arms import ERRORS_AT
from experiments.lab.names import ARCHITECTURES, exact
from experiments.lab.options import Comparison, Data, Seeds, Training
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.runs import Result, Texture
from experiments.pictures import views
from segjax import edges, oracle, plotting
from segjax._checks import check_count, check_sigma

# The notebook's network, trained as in the notebook, and the best network that we know, with the loss and the peak rate
# of `train_best_model`, but over the whole cosine and on batches of 8.
NETWORKS: Mapping[str, dict[str, Any]] = {
    "notebook": {"architecture": "notebook", "learning_rate": 1e-3},
    "patch": {"architecture": "patch", "learning_rate": 6e-3, "objective": "bce", "schedule": "warmup_cosine"},
}
# Seed of the evaluated images. They differ from the held-out images of the runs, which are always rescaled.
EVALUATED_KEY = 20261126
# Middles of `edges.BAND_NAMES` in pixels. The last band has no end: its point is at twice the middle before.
MIDDLES = (0.5, 1.5, 3.0, 6.0, 12.0)
YLABEL = "share of wrong pixels"


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Compares Bayes' rule, the notebook's network and a better one on the same pixels."""

    data: Data = Data(image_size=64)
    windows: tuple[int, ...] = (1, 3, 5, 9)  # Sides of the windows that Bayes' rule uses, in pixels, odd.
    #: Values of sigma2, in pixels, at the largest window; windows and distances are compared at --sigma2.
    sigma2s: tuple[float, ...] = (0.5, 0.8, 1.2, 2.0)
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
        """Every sigma2, including --sigma2."""
        return sorted({*self.sigma2s, self.data.sigma2})

    @property
    def margin(self) -> int:
        """Width of the border, in pixels, where no prediction is evaluated."""
        return max(oracle.margin(max(self.windows), self.data.sigma1, sigma2) for sigma2 in self.all_sigma2s)

    @property
    def sides(self) -> dict[str, int]:
        """Prediction -> the side of its largest window, or of its receptive field."""
        return dict.fromkeys(BAYES, max(self.windows)) | {
            name: ARCHITECTURES[name].receptive_field for name in NETWORKS
        }

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
        by_distance: (5,), the mean at each distance to the true edge; NaN if no pixel is there.
    """

    mean: float
    standard_error: float
    by_distance: np.ndarray


# The predictions: those of Bayes' rule have an expected error and an observed one.
EXPECTED, OBSERVED = BAYES = ("Bayes' rule, expected", "Bayes' rule, observed")
LABELS = (*BAYES, *NETWORKS)
# (prediction, side of its window or receptive field, sigma2) -> its error; for a network, one error per seed.
Errors = Mapping[tuple[str, int, float], Sequence[Error]]


def answer(options: Options, lab: Lab) -> Report:
    sigma2, sides, largest = options.data.sigma2, options.sides, max(options.windows)
    runs = {
        (name, sides[name], value): [
            options.run(seed, texture=options.texture(value), **settings) for seed in options.seeds
        ]
        for value in options.all_sigma2s
        for name, settings in NETWORKS.items()
    }
    results = {result.run: result for result in lab.train([run for group in runs.values() for run in group])}
    windows = [(window, sigma2) for window in options.windows]
    windows += [(largest, value) for value in options.all_sigma2s if value != sigma2]
    bayes = {pair: posterior(options, *pair, lab) for pair in windows}
    networks = {key: [predict(options, results[run]) for run in group] for key, group in runs.items()}
    errors: dict[tuple[str, int, float], list[Error]] = {
        (label, *pair): [error]
        for pair, probability in bayes.items()
        for label, error in zip(BAYES, evaluate(options, probability), strict=True)
    }
    errors |= {key: [evaluate(options, each)[1] for each in predictions] for key, predictions in networks.items()}
    rows = [
        {"what": label, "window": side, "sigma2": value, "seed": None if label in BAYES else seed}
        | {"error": error.mean, "standard_error": error.standard_error}
        | dict(zip(ERRORS_AT, error.by_distance, strict=True))
        for (label, side, value), group in errors.items()
        for seed, error in zip(options.seeds, group, strict=False)
    ]
    first = {f"Bayes' rule, {largest} x {largest}": bayes[largest, sigma2][0]}
    first |= {name: networks[name, sides[name], sigma2][0][0] for name in NETWORKS}
    return Report(
        findings(options, errors),
        [window_table(options, errors), sigma2_table(options, errors), distance_table(options, errors)],
        {**drawings(options, errors), "predictions": first_image(options, first)},
        results={"errors": rows},
        rows=rows,
        warnings=warnings(errors) + tables.seeds_warning(options.seeds.seeds),
    )


def images(options: Options, sigma2: float, rescaled: bool) -> segjax.Batch:
    """The evaluated images: rescaled for the networks, or as the generative model draws them."""
    texture = {**options.texture(sigma2)._asdict(), "batch_size": options.num_images}
    return segjax.generate_data(jax.random.key(EVALUATED_KEY), **texture, rescaled=rescaled)


def posterior(options: Options, window: int, sigma2: float, lab: Lab) -> np.ndarray:
    """(images, n, n), probability of the mask by Bayes' rule, NaN at the border.

    Stored as a note, since it can take as long as the training.
    """
    # The other options are those of the folder.
    texture, name = options.texture(sigma2), f"bayes-{window}-{exact(sigma2)}"
    if note := lab.folder.read_note(name):
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
    lab.folder.write_note(name, {"probability": probability}, {})
    return probability


def predict(options: Options, result: Result) -> np.ndarray:
    """(images, n, n), probability of the mask by a network.

    Batches are as large as in training: the notebook's network predicts with batch statistics.
    """
    model = ARCHITECTURES[result.run.architecture]
    image = images(options, result.run.texture.sigma2, rescaled=True).image
    probability = jax.jit(lambda batch: jax.nn.sigmoid(segjax.predict(model, result.variables, batch)[..., 0]))
    size = options.data.batch_size
    return np.concatenate([probability(image[start : start + size]) for start in range(0, options.num_images, size)])


def evaluate(options: Options, probability: np.ndarray) -> tuple[Error, Error]:
    """The error that a prediction expects, min(p, 1 - p) at each pixel, and the one that is observed."""
    # The masks are the same for every sigma2.
    mask = np.asarray(images(options, options.data.sigma2, rescaled=True).mask[..., 0]) > 0.5
    inner = (slice(None), *(slice(options.margin, -options.margin),) * 2)
    # Distances count edges outside of the inner part, too.
    band = np.searchsorted(edges.BANDS, np.asarray(edges.edge_distance(jnp.asarray(mask)))[inner])

    def error(wrong: np.ndarray) -> Error:
        wrong = wrong[inner].astype(float)
        bands = [wrong[band == index] for index in range(len(MIDDLES))]
        by_distance = np.array([pixels.mean() if pixels.size else np.nan for pixels in bands])
        # The pixels of one image are not independent.
        per_image = wrong.mean(axis=(1, 2))
        standard_error = per_image.std(ddof=1) / np.sqrt(len(per_image))
        return Error(float(per_image.mean()), float(standard_error), by_distance)

    return error(np.minimum(probability, 1 - probability)), error((probability > 0.5) != mask)


def findings(options: Options, errors: Errors) -> list[str]:
    sigma1, sigma2, sides = options.data.sigma1, options.data.sigma2, options.sides
    (expected,), (observed,) = (errors[label, sides[label], sigma2] for label in BAYES)
    sentences = [
        f"sigma {sigma1:g} against {sigma2:g}: Bayes' rule on {sides[EXPECTED]} x {sides[EXPECTED]} pixels expects an "
        f"error of {expected.mean:.2%} (+- {expected.standard_error:.2%}); {observed.mean:.2%} is observed."
    ]
    for name in NETWORKS:
        error, field = means(errors[name, sides[name], sigma2]).mean(), sides[name]
        ratio = f", {error / expected.mean:.1f} times what Bayes' rule expects" if expected.mean > 0 else ""
        sentences.append(f"{name}, with a receptive field of {field} x {field}, has an error of {error:.2%}{ratio}.")
    return sentences


def warnings(errors: Errors) -> list[str]:
    """Windows with too few masks, judged by the gap between the two errors of Bayes' rule."""
    sentences = []
    for window, sigma2 in [(window, sigma2) for label, window, sigma2 in errors if label == EXPECTED]:
        (expected,), (observed,) = (errors[label, window, sigma2] for label in BAYES)
        # With a limit of two standard errors, one report in seven would warn by chance: it has seven comparisons.
        if observed.mean - expected.mean > 3 * np.hypot(expected.standard_error, observed.standard_error):
            sentences.append(
                f"At {window} x {window} pixels, sigma2 {sigma2:g}, more --num-masks are needed: Bayes' rule expects "
                f"an error of {expected.mean:.2%}, and {observed.mean:.2%} is observed."
            )
    return sentences


def window_table(options: Options, errors: Errors) -> Table:
    sigma2 = options.data.sigma2
    rows = [
        [f"Bayes' rule, {window} x {window}", *(_cell(errors[label, window, sigma2]) for label in BAYES)]
        for window in options.windows
    ]
    for name in NETWORKS:
        field = options.sides[name]
        rows.append([f"{name}, receptive field {field} x {field}", "-", _cell(errors[name, field, sigma2])])
    note = (
        "Expected: the mean of min(p, 1 - p); observed: the share of wrong pixels; +- a standard error over images. "
        f"Networks: {options.seeds}."
    )
    return Table(f"Error (%) at sigma2 {sigma2:g}", ("", "expected", "observed"), rows, note)


def sigma2_table(options: Options, errors: Errors) -> Table:
    rows = [
        [f"{sigma2:g}", *(_cell(errors[label, options.sides[label], sigma2]) for label in LABELS)]
        for sigma2 in options.all_sigma2s
    ]
    note = "Bayes' rule on the largest window."
    return Table(f"Error (%) against sigma2, at sigma1 {options.data.sigma1:g}", ("sigma2", *LABELS), rows, note)


def distance_table(options: Options, errors: Errors) -> Table:
    rows = [
        [label, *(f"{100 * error:.2f}" if np.isfinite(error) else "-" for error in by_distance.mean(axis=0))]
        for label, by_distance in distances(options, errors).items()
    ]
    note = "Pixels from the true edge; Bayes' rule on the largest window."
    return Table("Error (%) by distance", ("", *edges.BAND_NAMES), rows, note)


def distances(options: Options, errors: Errors) -> dict[str, np.ndarray]:
    """Prediction -> (seeds, 5), the errors at each distance."""
    sigma2, sides = options.data.sigma2, options.sides
    return {label: np.stack([error.by_distance for error in errors[label, sides[label], sigma2]]) for label in LABELS}


def drawings(options: Options, errors: Errors) -> dict[str, Drawing]:
    """Errors against distance, window and sigma2."""
    sigma2, sides = options.data.sigma2, options.sides
    fields = {f"{name}, receptive field {sides[name]}": means(errors[name, sides[name], sigma2]) for name in NETWORKS}
    over_window = plotting.Panel(
        YLABEL,
        {label: np.stack([means(errors[label, side, sigma2]) for side in options.windows], axis=1) for label in BAYES},
        log=True,
        x=np.array(options.windows, float),
        xlabel="side of the window (pixels)",
        horizontal_lines={label: float(values.mean()) for label, values in fields.items()},
    )
    over_sigma2 = plotting.Panel(
        YLABEL,
        {
            label: np.stack([means(errors[label, sides[label], value]) for value in options.all_sigma2s], axis=1)
            for label in (EXPECTED, *NETWORKS)
        },
        log=True,
        x=np.array(options.all_sigma2s),
        xlabel="sigma2 (pixels)",
    )
    by_distance = plotting.Panel(
        YLABEL, distances(options, errors), x=np.array(MIDDLES), xlabel="distance to the true edge (pixels)"
    )
    panels = {
        "by_distance": ("Error by the distance to the true edge", f"sigma2 {sigma2:g}", by_distance),
        "over_window": ("Error against the size of the window", f"sigma2 {sigma2:g}", over_window),
        "over_sigma2": ("Error against sigma2", f"sigma1 {options.data.sigma1:g}", over_sigma2),
    }
    setting = f"{options.num_images} images of {options.data.size}, {options.seeds}"
    return {
        name: Drawing(heading, plotting.training_curves([panel], f"{heading}, {fixed}: {setting}"))
        for name, (heading, fixed, panel) in panels.items()
        # A single point is no curve.
        if panel.x is not None and len(panel.x) > 1
    }


def first_image(options: Options, predictions: Mapping[str, np.ndarray]) -> Drawing:
    """The first evaluated image beside its predictions."""
    sigma2 = options.data.sigma2
    title = f"The first image, seed {options.seeds.seed}, sigma2 {sigma2:g}; grey frame: not evaluated"
    figure = views.beside_mask(images(options, sigma2, rescaled=True), predictions, title)
    return Drawing("An image and its predictions", figure)


def means(errors: Sequence[Error]) -> np.ndarray:
    return np.array([error.mean for error in errors])


def _cell(errors: Sequence[Error]) -> str:
    """The mean and range over seeds; for a single error, the error and its standard error."""
    if len(errors) > 1:
        return tables.spread(100 * means(errors), ".2f")
    return f"{100 * errors[0].mean:.2f}\n+- {100 * errors[0].standard_error:.2f}"


if __name__ == "__main__":
    question.main()

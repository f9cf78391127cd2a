"""How good can a segmentation be? The best possible error, beside that of the notebook's network and of a better one.

    python -m experiments.best_possible                    64 x 64 images, windows to 9 x 9, four pairs of textures
    python -m experiments.best_possible --preset quick     32 x 32 images, windows to 5 x 5, one pair
    python -m experiments.best_possible --windows 9 17 --num-masks 20000 --image-size 128 --sigma 25.6

The textures have a known law, so Bayes' rule on the window around a pixel gives its best prediction
(`segjax.oracle`, docs/best-possible.md). All are judged on the same pixels of the same images, away from the border:

- over the window that Bayes' rule sees;
- over sigma2, at the largest window;
- by the distance to the true edge.

Two numbers are given for Bayes' rule: the error that it expects, and the one that is observed. Where the second is
above the first by more than three of their standard errors, a warning says that --num-masks is too small for the
window: the first is too low then, and the second an error that can be beaten. Expect the notebook's network at two to
four times the best possible, nearly all of it within two pixels of the edge. About 15 minutes on 2 CPU cores; quick, a
minute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

import segjax
from experiments.lab import experiment, fairness, scores, store
from experiments.lab.names import ARCHITECTURES, exact
from experiments.lab.options import Comparison
from experiments.lab.report import Report, Table
from experiments.lab.runs import Result, Run, Texture
from experiments.lab.train import progress_bar, train_all
from segjax import edges, oracle, plotting
from segjax._checks import check_count, check_sigma

# The notebook's network as it is trained there, and the best that we know, with the loss and the peak rate of
# `train_best_model`: here over the whole cosine, and on batches of 8.
NETWORKS: Mapping[str, dict[str, Any]] = {
    "notebook": {"architecture": "notebook", "learning_rate": 1e-3},
    "patch": {"architecture": "patch", "learning_rate": 6e-3, "objective": "bce", "schedule": "warmup_cosine"},
}
# The images on which all are judged: other ones than the held-out images of the runs, which are rescaled.
JUDGED_KEY = 20261126
# Middles of `edges.BAND_NAMES` in pixels; the last band has no end, and is drawn where the next doubling leads.
MIDDLES = (0.5, 1.5, 3.0, 6.0, 12.0)


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Compares Bayes' rule, the notebook's network and a better one on the same pixels."""

    image_size: int = 64
    sigma: float = 12.8
    windows: tuple[int, ...] = (1, 3, 5, 9)  # Sides of the windows that Bayes' rule sees, in pixels, odd.
    sigma2s: tuple[float, ...] = (0.5, 0.8, 1.2, 2.0)
    """Widths of the texture outside the mask, in pixels; windows and distances are at --sigma2."""
    num_masks: int = 2000  # Masks over which Bayes' rule sums.
    num_images: int = 16  # Images on which all are judged.
    out: Path = Path("results/best_possible")

    def check(self) -> None:
        super().check()
        check_count("--num-masks", self.num_masks, 2)
        check_count("--num-images", self.num_images, 2)
        for window in self.windows:
            if not check_count("--windows", window, 1, self.image_size) % 2:
                raise ValueError(f"--windows must be odd, to have a centre, got {window}")
        for width in self.sigma2s:
            check_sigma("--sigma2s", width)
        for name, values in (("--windows", self.windows), ("--sigma2s", self.sigma2s)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be different numbers, at least one")
        if self.image_size <= 2 * self.margin:
            raise ValueError(f"--image-size must be above {2 * self.margin} for these windows and textures")

    @property
    def widths(self) -> list[float]:
        """Every sigma2, with that of the windows and distances."""
        return sorted({*self.sigma2s, self.sigma2})

    @property
    def margin(self) -> int:
        """Pixels at the border that are not judged, the same ones everywhere."""
        return max(oracle.margin(max(self.windows), self.sigma1, width) for width in self.widths)


PRESETS = {
    "full": Options(),
    "quick": Options(
        image_size=32,
        sigma=6.4,
        iterations=100,
        seeds=1,
        windows=(1, 5),
        sigma2s=(1.2,),
        num_masks=300,
        num_images=8,
    ),
}


class Seen(NamedTuple):
    """Probabilities of the mask: (images, n, n) by Bayes' rule at each window and sigma2, and by each run.

    Those of Bayes' rule are NaN at the border.
    """

    bayes: dict[tuple[int, float], np.ndarray]
    runs: dict[Run, np.ndarray]


def work(options: Options, console: Console) -> Seen:
    """Trains the networks, and lets them and Bayes' rule see the images."""
    results = train_all(planned(options), options, console)
    pairs = [(window, options.sigma2) for window in options.windows]
    pairs += [(max(options.windows), width) for width in options.widths if width != options.sigma2]
    bayes = {pair: posterior(options, *pair, console) for pair in pairs}
    return Seen(bayes, {result.run: predicted(options, result) for result in results})


def planned(options: Options) -> list[Run]:
    return [
        options.run(seed, texture=options.texture._replace(sigma2=width), **NETWORKS[name])
        for width in options.widths
        for name in NETWORKS
        for seed in options.all_seeds
    ]


def images(texture: Texture, number: int, rescaled: bool) -> segjax.Batch:
    """The images on which all are judged, as networks see them or on the scale of their law."""
    drawn = {**texture._asdict(), "batch_size": number}
    return segjax.generate_data(jax.random.key(JUDGED_KEY), **drawn, rescaled=rescaled)


def posterior(options: Options, window: int, width: float, console: Console) -> np.ndarray:
    """What Bayes' rule sees; kept, since it can take as long as the training."""
    texture = options.texture._replace(sigma2=width)
    name, made = f"bayes-{window}-{exact(width)}", {**texture._asdict(), "window": window}
    made |= {"masks": options.num_masks, "images": options.num_images, "border": options.margin}
    if (kept := store.read_note(options.out, name)) and kept[1] == made:
        return np.asarray(kept[0]["probability"])
    with progress_bar(console) as progress:
        bar = progress.add_task(f"Bayes' rule, {window} x {window}, sigma2 {width:g}", total=options.num_masks)
        seen = oracle.posterior(
            jax.random.key(options.seed),
            images(texture, options.num_images, rescaled=False).image,
            *(texture.sigma1, texture.sigma2, texture.sigma),
            window=window,
            num_masks=options.num_masks,
            border=options.margin,
            progress=lambda done, _: progress.update(bar, completed=done),
        )
    store.write_note(options.out, name, {"probability": seen}, made)
    return seen


def predicted(options: Options, result: Result) -> np.ndarray:
    """What a network sees, in batches of the size of its training: the notebook's predicts with their statistics."""
    model, drawn = ARCHITECTURES[result.run.architecture], images(result.run.texture, options.num_images, rescaled=True)
    predict = jax.jit(lambda batch: jax.nn.sigmoid(segjax.predict(model, result.variables, batch)[..., 0]))
    parts = range(0, options.num_images, options.batch_size)
    return np.concatenate([predict(drawn.image[start : start + options.batch_size]) for start in parts])


class Judged(NamedTuple):
    """The errors of one prediction on the pixels that are judged.

    Attributes:
        error, deviation: share of them that are wrong, and its standard error over images.
        by_distance: (5,), the same at each distance to the true edge, NaN where no pixel is.
    """

    error: float
    deviation: float
    by_distance: np.ndarray


def judge(options: Options, probability: np.ndarray, width: float, expected: bool = False) -> Judged:
    """The errors of a prediction; those that it expects of itself, min(p, 1 - p), where `expected`."""
    texture = options.texture._replace(sigma2=width)
    mask = np.asarray(images(texture, options.num_images, rescaled=True).mask[..., 0]) > 0.5
    inner = (slice(None), *(slice(options.margin, -options.margin),) * 2)
    wrong = np.minimum(probability, 1 - probability) if expected else (probability > 0.5) != mask
    wrong = wrong[inner].astype(float)
    # Of the whole mask: an edge outside of the inner part is one, too.
    band = np.searchsorted(edges.BANDS, np.asarray(edges.edge_distance(jnp.asarray(mask)))[inner])
    counts = [np.sum(band == own) for own in range(len(MIDDLES))]
    sums = [np.sum(wrong[band == own]) for own in range(len(MIDDLES))]
    by_distance = np.array([total / count if count else np.nan for total, count in zip(sums, counts, strict=True)])
    # The deviation is over images: the pixels of one image are no independent trials.
    each = wrong.mean(axis=(1, 2))
    return Judged(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))), by_distance)


def report(options: Options, seen: Seen) -> Report:
    best = {
        (pair, kind): judge(options, probability, pair[1], kind == "expected")
        for pair, probability in seen.bayes.items()
        for kind in ("expected", "observed")
    }
    networks = {run: judge(options, probability, run.texture.sigma2) for run, probability in seen.runs.items()}
    rows = [
        {"what": f"Bayes' rule, {kind}", "window": window, "sigma2": width, "seed": None, **_numbers(judged)}
        for ((window, width), kind), judged in best.items()
    ]
    rows += [
        {
            "what": run.architecture,
            "window": ARCHITECTURES[run.architecture].receptive_field,
            "sigma2": run.texture.sigma2,
            "seed": run.seed,
            **_numbers(judged),
        }
        for run, judged in networks.items()
    ]
    largest = (max(options.windows), options.sigma2)
    distances = {
        **{f"Bayes' rule, {kind}": best[largest, kind].by_distance[np.newaxis] for kind in ("expected", "observed")},
        **{
            name: np.stack([judged.by_distance for _, judged in _of(networks, name, options.sigma2)])
            for name in NETWORKS
        },
    }
    tables = [window_table(options, best, networks), width_table(options, best, networks), _distance_table(distances)]
    figures = {**draw(options, best, networks, distances), "predictions": look(options, seen, largest)}
    said = [*warnings(best), *fairness.of_seeds(options.seeds)]
    return Report(findings(options, best, networks), tables, figures, {"errors": rows}, rows, said)


def findings(options: Options, best: Mapping[Any, Judged], networks: Mapping[Run, Judged]) -> list[str]:
    window = max(options.windows)
    least, observed = (best[(window, options.sigma2), kind] for kind in ("expected", "observed"))
    words = []
    for name in NETWORKS:
        error = float(np.mean([judged.error for _, judged in _of(networks, name, options.sigma2)]))
        field = ARCHITECTURES[name].receptive_field
        times = f", {error / least.error:.1f} times what Bayes' rule expects" if least.error > 0 else ""
        words.append(
            f"sigma {options.sigma1:g} against {options.sigma2:g}: Bayes' rule on {window} x {window} pixels expects "
            f"an error of {least.error:.2%} (+- {least.deviation:.2%}) and makes one of {observed.error:.2%}; {name}, "
            f"which sees {field} x {field}, makes one of {error:.2%}{times}."
        )
    return words


def warnings(best: Mapping[Any, Judged]) -> list[str]:
    """Windows for which the masks were too few, by the gap between the two errors of Bayes' rule."""
    found = []
    for window, width in dict.fromkeys(pair for pair, _ in best):
        expected, observed = (best[(window, width), kind] for kind in ("expected", "observed"))
        # At two standard errors one of the seven windows and widths would warn by chance in one report of seven.
        gap = observed.error - expected.error
        if gap > 3 * np.hypot(expected.deviation, observed.deviation):
            found.append(
                f"At {window} x {window} pixels, sigma2 {width:g}, more --num-masks are needed: Bayes' rule expects "
                f"{expected.error:.2%} and has {observed.error:.2%} wrong."
            )
    return found


def window_table(options: Options, best: Mapping[Any, Judged], networks: Mapping[Run, Judged]) -> Table:
    rows = []
    for window in options.windows:
        both = (best[(window, options.sigma2), kind] for kind in ("expected", "observed"))
        rows.append([f"Bayes' rule, {window} x {window}", *(_cell(judged) for judged in both)])
    for name in NETWORKS:
        field, errors = ARCHITECTURES[name].receptive_field, [it.error for _, it in _of(networks, name, options.sigma2)]
        rows.append([f"{name}, sees {field} x {field}", "-", _spread(errors)])
    note = (
        "Expected: the mean of min(p, 1 - p); observed: the share of wrong pixels; +- a standard error over images. "
        f"Networks: {options.over_seeds}."
    )
    return Table(f"Error (%) at sigma2 {options.sigma2:g}", ("", "expected", "observed"), rows, note)


def width_table(options: Options, best: Mapping[Any, Judged], networks: Mapping[Run, Judged]) -> Table:
    window = max(options.windows)
    rows = [
        [
            f"{width:g}",
            *(_cell(best[(window, width), kind]) for kind in ("expected", "observed")),
            *(_spread([judged.error for _, judged in _of(networks, name, width)]) for name in NETWORKS),
        ]
        for width in options.widths
    ]
    headings = ("sigma2", f"Bayes' rule, {window} x {window}: expected", "observed", *NETWORKS)
    return Table(f"Error (%) at sigma1 {options.sigma1:g}, over sigma2", headings, rows)


def draw(
    options: Options,
    best: Mapping[Any, Judged],
    networks: Mapping[Run, Judged],
    distances: Mapping[str, np.ndarray],
) -> dict[str, Figure]:
    window, setting = max(options.windows), f"{options.size} images, {options.num_images} of them, {options.over_seeds}"
    errors = {
        (name, width): np.array([judged.error for _, judged in _of(networks, name, width)])
        for name in NETWORKS
        for width in options.widths
    }
    over_window = plotting.Panel(
        "share of pixels wrong",
        {
            f"Bayes' rule, {kind}": np.array([best[(side, options.sigma2), kind].error for side in options.windows])
            for kind in ("expected", "observed")
        },
        log=True,
        x=np.array(options.windows, float),
        xlabel="side of the window (pixels)",
        horizontal_lines={
            f"{name}, sees {ARCHITECTURES[name].receptive_field}": float(errors[name, options.sigma2].mean())
            for name in NETWORKS
        },
    )
    over_width = plotting.Panel(
        "share of pixels wrong",
        {
            f"Bayes' rule, {window} x {window}": np.array(
                [best[(window, width), "expected"].error for width in options.widths]
            ),
            **{name: np.stack([errors[name, width] for width in options.widths], axis=1) for name in NETWORKS},
        },
        log=True,
        x=np.array(options.widths),
        xlabel="sigma2 (pixels)",
    )
    by_distance = plotting.Panel(
        "share of pixels wrong", distances, x=np.array(MIDDLES), xlabel="distance to the true edge (pixels)"
    )
    panels = {"by_distance": by_distance}
    # A single point is no curve.
    if len(options.windows) > 1:
        panels["over_window"] = over_window
    if len(options.widths) > 1:
        panels["over_sigma2"] = over_width
    title = {
        "over_window": f"Error over what is seen, sigma2 {options.sigma2:g}",
        "over_sigma2": f"Error over sigma2, sigma1 {options.sigma1:g}",
        "by_distance": f"Error by distance, sigma2 {options.sigma2:g}",
    }
    return {name: plotting.training_curves([panel], f"{title[name]}: {setting}") for name, panel in panels.items()}


def look(options: Options, seen: Seen, pair: tuple[int, float]) -> Figure:
    """The first image that is judged, as Bayes' rule and the first seed of each network see it."""
    image, mask = (part[0, ..., 0] for part in images(options.texture, options.num_images, rescaled=True))
    views = {f"Bayes' rule, {pair[0]} x {pair[0]}": seen.bayes[pair][0]}
    for name in NETWORKS:
        (run, *_) = [run for run in seen.runs if (run.architecture, run.texture.sigma2) == (name, options.sigma2)]
        views[name] = seen.runs[run][0]
    title = f"The first image, seed {options.seed}, sigma2 {options.sigma2:g}; grey frame: not judged"
    return plotting.predictions(image, mask, views, title)


def _of(networks: Mapping[Run, Judged], name: str, width: float) -> list[tuple[Run, Judged]]:
    return [(run, it) for run, it in networks.items() if (run.architecture, run.texture.sigma2) == (name, width)]


def _numbers(judged: Judged) -> dict[str, Any]:
    bands = dict(zip(scores.ERRORS_AT, judged.by_distance, strict=True))
    return {"error": judged.error, "standard_error": judged.deviation, **bands}


def _distance_table(distances: Mapping[str, np.ndarray]) -> Table:
    rows = [
        [name, *(f"{100 * error:.2f}" if np.isfinite(error) else "-" for error in errors.mean(axis=0))]
        for name, errors in distances.items()
    ]
    note = "Pixels from the true edge; Bayes' rule on the largest window."
    return Table("Error (%) by distance", ("", *edges.BAND_NAMES), rows, note)


def _cell(judged: Judged) -> str:
    return f"{100 * judged.error:.2f}\n+- {100 * judged.deviation:.2f}"


def _spread(errors: list[float]) -> str:
    mean, low, high = (100 * part for part in (np.mean(errors), min(errors), max(errors)))
    return f"{mean:.2f}\n{low:.2f}-{high:.2f}" if len(errors) > 1 else f"{mean:.2f}"


if __name__ == "__main__":
    experiment.main()

"""The best possible error, to be shown beside a network's: Bayes' rule on windows small enough for a few seconds.

With enough masks, as at the notebook's sigmas, a classifier can reach this error, away from the image's border; with
too few masks the error is too low. No network whose receptive field lies within the window has a lower error; a network
with a larger field can, by what docs/best-possible.md measures.
"""

from typing import Any, NamedTuple

import jax
from rich.progress import Progress

from experiments.lab.runs import Texture
from segjax import oracle
from segjax.oracle import BayesError

# At the notebook's sigmas 1,000 masks are enough for these windows, and take about 10 s on 2 cores; for 17 x 17 pixels
# they are far too few (docs/best-possible.md).
WINDOW, NUM_MASKS, NUM_IMAGES, PIXELS = 9, 1000, 32, 128


class Bound(NamedTuple):
    """The error of Bayes' rule, and the side of its window in pixels."""

    window: int
    error: BayesError


def measure(texture: Texture, progress: Progress) -> Bound | None:
    """The bound for these textures; None where they reach so far that no pixel is away from the border."""
    sigmas = texture.sigma1, texture.sigma2
    windows = [side for side in range(1, WINDOW + 1, 2) if texture.image_size > 2 * oracle.margin(side, *sigmas)]
    if not windows:
        return None
    with progress:
        bar = progress.add_task("the best possible: masks", total=NUM_MASKS)
        error = oracle.bayes_error(
            jax.random.key(0),
            *sigmas,
            texture.sigma,
            image_size=texture.image_size,
            window=windows[-1],
            num_masks=NUM_MASKS,
            num_images=NUM_IMAGES,
            pixels_per_image=PIXELS,
            progress=lambda done, _: progress.update(bar, completed=done),
        )
    return Bound(windows[-1], error)


def document(bound: Bound | None) -> dict[str, Any] | None:
    """What results.json holds of the bound."""
    return {"window": bound.window, **bound.error._asdict()} if bound else None


def heading(bound: Bound) -> str:
    """The label of a line at the bound in a figure."""
    return f"Bayes' rule, {bound.window} x {bound.window} pixels"


def sentence(bound: Bound, name: str, error: float, field: int) -> str:
    """A finding: a network's error on held-out images, beside the bound; `field` is the side of its receptive field."""
    least, deviation, side = bound.error.expected, bound.error.expected_error, bound.window
    # Textures that nobody confuses have a least error of 0, and no ratio to it.
    ratio = f", {error / least:.1f} times as many" if least > 0 else ""
    rivals = "No network with so small a receptive field can"
    if field > side:
        rivals = f"A network with a receptive field of {field} x {field} may"
    rule = f"Bayes' rule on {side} x {side} pixels errs on {least:.2%} (+- {deviation:.2%}) of the pixels"
    return f"The best possible: {rule} away from the border; {name} errs on {error:.2%}{ratio}. {rivals} do better."

"""The best possible error, for comparison with a network's: Bayes' rule on windows that take only a few seconds.

With enough masks, as at the notebook's sigmas, a classifier can reach this error away from the image's border. With
too few masks the error is too low. A network whose receptive field lies within the window cannot have a lower error; a
network with a larger field can (docs/best-possible.md).
"""

from typing import Any, NamedTuple

import jax
from rich.progress import Progress

from experiments.lab.runs import Texture
from segjax import oracle
from segjax.oracle import BayesError

# At the notebook's sigmas 1,000 masks suffice for these windows and take about 10 s on 2 cores. For 17 x 17 pixels they
# are far too few (docs/best-possible.md).
WINDOW, NUM_MASKS, NUM_IMAGES, PIXELS = 9, 1000, 32, 128


class Bound(NamedTuple):
    """The error of Bayes' rule, and the side of its window in pixels."""

    window: int
    error: BayesError


def measure(texture: Texture, progress: Progress) -> Bound | None:
    """The bound for these textures; None if every pixel of the image is within reach of the border."""
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
    """The bound in results.json."""
    return {"window": bound.window, **bound.error._asdict()} if bound else None


def heading(bound: Bound) -> str:
    """The label of the bound's line in a figure."""
    return f"Bayes' rule, {bound.window} x {bound.window} pixels"


def finding(bound: Bound, name: str, error: float, field: int) -> str:
    """A finding that compares a network's held-out error with the bound; `field` is the side of its receptive field."""
    expected, deviation, side = bound.error.expected, bound.error.expected_error, bound.window
    # Textures that are never confused have an error of 0.
    ratio = f", {error / expected:.1f} times as many" if expected > 0 else ""
    rivals = "No network with so small a receptive field can"
    if field > side:
        rivals = f"A network with a receptive field of {field} x {field} may"
    rule = f"Bayes' rule on {side} x {side} pixels errs on {expected:.2%} (+- {deviation:.2%}) of the pixels"
    return f"The best possible: {rule} away from the border; {name} errs on {error:.2%}{ratio}. {rivals} do better."

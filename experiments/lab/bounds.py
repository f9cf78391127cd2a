"""The best possible error, to be shown beside a network's: Bayes' rule on windows small enough for a few seconds.

Where the masks are enough, as at the notebook's widths, it is an error that can be reached, away from the image's
border; too few masks make it too low. For networks that see no more than the window it is
also the least one; those that see more could do better still, by what docs/best-possible.md measures.
"""

from typing import Any, NamedTuple

import jax
from rich.console import Console

from experiments.lab.runs import Texture
from experiments.lab.train import progress_bar
from segjax import oracle
from segjax.oracle import BayesError

# At the notebook's widths, 1,000 masks are enough for these windows, and take about 10 s on 2 cores; for 17 x 17 pixels
# they are far too few (docs/best-possible.md).
WINDOW, NUM_MASKS, NUM_IMAGES, PIXELS = 9, 1000, 32, 128


class Bound(NamedTuple):
    """The error of Bayes' rule, and the side of the window that it sees."""

    window: int
    error: BayesError


def measure(texture: Texture, console: Console) -> Bound | None:
    """The bound for these textures; None where they reach so far that no pixel is away from the border."""
    widths = texture.sigma1, texture.sigma2
    fitting = [side for side in range(1, WINDOW + 1, 2) if texture.image_size > 2 * oracle.margin(side, *widths)]
    if not fitting:
        return None
    with progress_bar(console) as progress:
        bar = progress.add_task("the best possible: masks", total=NUM_MASKS)
        found = oracle.bayes_error(
            jax.random.key(0),
            *widths,
            texture.sigma,
            image_size=texture.image_size,
            window=fitting[-1],
            num_masks=NUM_MASKS,
            num_images=NUM_IMAGES,
            pixels_per_image=PIXELS,
            progress=lambda done, _: progress.update(bar, completed=done),
        )
    return Bound(fitting[-1], found)


def document(bound: Bound | None) -> dict[str, Any] | None:
    """What results.json holds of it."""
    return {"window": bound.window, **bound.error._asdict()} if bound else None


def heading(bound: Bound) -> str:
    """What a line at the bound is called in a figure."""
    return f"Bayes' rule, {bound.window} x {bound.window} pixels"


def sentence(bound: Bound, name: str, error: float, field: int) -> str:
    """A network's error on held-out images beside the bound; `field` is the side of the square that it sees."""
    least, deviation, side = bound.error.expected, bound.error.expected_error, bound.window
    # Textures that nobody confuses have a least error of 0, and no ratio to it.
    times = f", {error / least:.1f} times as many" if least > 0 else ""
    more = "No network that sees so little can" if field <= side else f"A network that sees {field} x {field} may"
    rule = f"Bayes' rule on {side} x {side} pixels errs on {least:.2%} (+- {deviation:.2%}) of the pixels"
    return f"The best possible: {rule} away from the border; {name} errs on {error:.2%}{times}. {more} do better."

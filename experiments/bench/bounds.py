"""The best possible error, for comparison with a network's: Bayes' rule on windows that take only a few seconds.

    python -m experiments.bench.bounds       measures the notebook's textures anew, for known_bounds.json; a minute

With enough masks, as at the notebook's sigmas, a classifier can reach this error away from the image's border. With
too few masks the error is too low. A network whose receptive field lies within the window cannot have a lower error; a
network with a larger field can (docs/best-possible.md).
"""

import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.lab.question import Lab
from experiments.lab.runs import Texture
from segjax import checkpoints, oracle, textures
from segjax.oracle import BayesError

# At the notebook's sigmas 1,000 masks suffice for these windows and take about 10 s on 2 cores. For 17 x 17 pixels they
# are far too few (docs/best-possible.md).
WINDOW, NUM_MASKS, NUM_IMAGES, PIXELS = 9, 1000, 32, 128
# The errors for the notebook's sigmas at the image sizes of the presets, each with all that it depends on.
KNOWN, SIZES = Path(__file__).with_name("known_bounds.json"), (32, 64, 128)
# Docstrings, comments and white space, which change no number.
_NO_CODE = re.compile(r'"""[\s\S]*?"""|#.*|\s')


class Bound(NamedTuple):
    """The error of Bayes' rule, and the side of its window in pixels."""

    window: int
    error: BayesError


def measure(texture: Texture, lab: Lab) -> Bound | None:
    """The bound for these textures; None if every pixel of the image is within reach of the border."""
    if not (options := settings(texture)):
        return None
    window = options["window"]
    for row in json.loads(KNOWN.read_text()):
        if row["settings"] == options and row["code"] == code():
            lab.say("The best possible error: known for these textures.")
            return Bound(window, BayesError(**row["error"]))
    with lab.progress() as progress:
        bar = progress.add_task("the best possible error for these textures: masks", total=NUM_MASKS)
        return Bound(window, _measured(options, lambda done, _: progress.update(bar, completed=done)))


def settings(texture: Texture) -> dict[str, Any]:
    """The arguments of `oracle.bayes_error` for the largest window that fits into the image; empty if none does."""
    sigmas = {name: getattr(texture, name) for name in ("sigma1", "sigma2")}
    windows = [side for side in range(1, WINDOW + 1, 2) if texture.image_size > 2 * oracle.margin(side, **sigmas)]
    if not windows:
        return {}
    sizes = {"image_size": texture.image_size, "window": windows[-1], "num_masks": NUM_MASKS}
    return {**sigmas, "sigma": texture.sigma, **sizes, "num_images": NUM_IMAGES, "pixels_per_image": PIXELS}


@cache
def code() -> str:
    """A digest of the code that the errors depend on."""
    source = "".join(_NO_CODE.sub("", Path(str(module.__file__)).read_text()) for module in (oracle, textures))
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _measured(options: dict[str, Any], progress: Callable[[int, int], None] | None = None) -> BayesError:
    return oracle.bayes_error(jax.random.key(0), **options, progress=progress)


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


def main() -> None:
    """Writes the table of known errors."""
    rows = []
    for size in SIZES:
        options = settings(Texture(image_size=size, sigma=size / 5))
        rows.append({"settings": options, "code": code(), "error": _measured(options)._asdict()})
    checkpoints.write(KNOWN, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

"""Figures that several questions share."""

import flax.linen as nn
import jax
import numpy as np

import segjax
from experiments.lab.arms import Arms
from experiments.lab.names import ARCHITECTURES
from experiments.lab.programs import held_out_batch
from experiments.lab.report import Drawing
from segjax import plotting
from segjax.models import Variables

_predict = jax.jit(segjax.predict, static_argnums=0)


def probability(model: nn.Module, variables: Variables, batch: segjax.Batch) -> np.ndarray:
    """The predicted probabilities for the first image of a batch, (n, n)."""
    return np.asarray(jax.nn.sigmoid(_predict(model, variables, batch.image)))[0, ..., 0]


def predictions(arms: Arms) -> Drawing:
    """The first held-out image for each arm's textures, and the prediction of the arm's first seed."""
    grid: list[list[plotting.Picture]] = []
    trained = {label: arm for label, arm in arms.items() if arm.results}
    # Arms with the same textures share the image.
    for texture in dict.fromkeys(arm.run.texture for arm in trained.values()):
        batch = held_out_batch(texture)
        image, mask = (part[0, ..., 0] for part in batch)
        pictures = [plotting.Picture("input image", image), plotting.Picture("true mask", mask, "mask")]
        for label, arm in trained.items():
            if arm.run.texture == texture:
                prediction = probability(ARCHITECTURES[arm.run.architecture], arm.results[0].variables, batch)
                pictures.append(plotting.Picture(label, prediction, "probability"))
        grid += plotting.in_rows(pictures)
    first = next(iter(arms.values())).run
    title = f"A held-out image after {first.iterations} iterations, seed {first.seed}"
    return Drawing("A held-out image and its predictions", plotting.pictures(grid, title))


def curve_panel(arms: Arms, curve: str, ylabel: str) -> plotting.Panel:
    """Running means of a curve over the steps, one line per arm; a loss has a logarithmic axis."""
    return plotting.Panel(ylabel, {label: arm.running(curve) for label, arm in arms.items()}, log=curve == "loss")

"""The eight flaws of the notebook, shown by numbers of our runs or by small computations."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import segjax
from experiments.lab import tables
from experiments.lab.arms import Arms
from experiments.notebook.published import AGREEMENT, LOSS, quantity


class Flaw(NamedTuple):
    """A flaw of the notebook, and the numbers that show it."""

    flaw: str
    shown: str


def demonstrate(arms: Arms, steps: int, image_size: int, published: bool) -> list[Flaw]:
    """All eight flaws, in the order of the notebook; the arms are those of `reproduce_notebook`.

    Args:
        published: whether to quote published numbers, for runs with the notebook's protocol.
    """
    loss, agreement = ("published for SGD 0.0451; ", "published 0.7185; ") if published else ("", "")

    def score(label: str, column: str) -> str:
        return over_seeds(arms[label].values(column))

    def at(label: str, name: str) -> str:
        """The loss or agreement after `steps` steps, also of longer runs."""
        return over_seeds([quantity(result, name, steps) for result in arms[label].results])

    return [
        Flaw(
            '1. "Precision" and "IoU" are neither',
            f"The Adam runs on held-out images: what it calls precision {score('adam 0.001', 'held_out_agreement')}, "
            f"precision {score('adam 0.001', 'precision')}, IoU {score('adam 0.001', 'iou')}.",
        ),
        Flaw(
            "2. The SGD run had momentum 0.9",
            f"Loss after {steps} steps: {loss}plain SGD {at('sgd 0.001', LOSS)}; "
            f"momentum {at('momentum 0.001', LOSS)}. Agreement: {agreement}plain SGD "
            f"{at('sgd 0.001', AGREEMENT)}; momentum {at('momentum 0.001', AGREEMENT)}.",
        ),
        Flaw(
            "3. The rates were tuned for Adam alone",
            f"Loss at Adam's rate 0.001 and at a rate of its own: momentum {at('momentum 0.001', LOSS)}, at 0.1 "
            f"{at('momentum 0.1', LOSS)}; SGD {at('sgd 0.001', LOSS)}, at 1 {at('sgd 1', LOSS)}; "
            f"Adam at 0.001 {at('adam 0.001', LOSS)}.",
        ),
        Flaw("4. Adam is called best, its table says RMSprop", adam_against_rmsprop(arms, steps)),
        Flaw("5. The schedule was tried on a loss that is always 0, one update an epoch", single_channel_entropy()),
        Flaw("6. RMSprop's loss curve is another run's sum", other_sum(arms, steps)),
        Flaw(
            "7. The shared BatchNorm cannot be evaluated",
            f"Held-out accuracy of the Adam runs: with batch statistics {score('adam 0.001', 'accuracy')}, with the "
            f"running statistics of evaluation mode {score('adam 0.001', 'accuracy_by_running_statistics')}; "
            "one class throughout gives about half.",
        ),
        Flaw("8. Narrow kernels underflow", narrow_kernel(image_size)),
    ]


def adam_against_rmsprop(arms: Arms, steps: int) -> str:
    adam, rmsprop = (
        np.array([[quantity(result, name, steps) for name in (LOSS, AGREEMENT)] for result in arms[label].results])
        for label in ("adam 0.001", "rmsprop 0.001")
    )
    differences = adam - rmsprop
    loss, agreement = (", ".join(f"{value:+.4f}" for value in column) for column in differences.T)
    lower, higher = int((differences[:, 0] < 0).sum()), int((differences[:, 1] > 0).sum())
    return (
        f"Adam minus RMSprop, paired by seed: loss {loss}; agreement {agreement}. Adam has the lower loss in {lower} "
        f"and the higher agreement in {higher} of {len(differences)} seeds."
    )


def single_channel_entropy() -> str:
    """The value and the gradient of the notebook's CrossEntropyLoss over one channel."""
    logits, masks = jax.random.normal(jax.random.key(0), (4, 1)), jnp.ones((4, 1))
    loss, gradient = jax.value_and_grad(lambda x: optax.softmax_cross_entropy(x, masks).mean())(logits)
    return (
        f"The softmax over a single channel is 1 whatever the logit: the loss is {float(loss):g} and its largest "
        f"gradient {float(jnp.abs(gradient).max()):g}. Its optimizer.step() stood outside the inner loop: 99 updates "
        "for 9900 batches. Here segjax.schedules.exponential moves the rate by 0.95 an epoch and every batch updates."
    )


def other_sum(arms: Arms, steps: int) -> str:
    """RMSprop's curve: the notebook divides `avg_loss`, a sum from the long SGD run, by RMSprop's steps."""
    long = arms["sgd 0.001"].results[0]
    # There is no long run with --long-seeds 0.
    if long.run.iterations <= steps:
        return "(not run)"
    # The running mean times its steps is the sum in `avg_loss`.
    long_sum = quantity(long, LOSS, long.run.iterations) * long.run.iterations
    true = quantity(arms["rmsprop 0.001"].results[0], LOSS, steps)
    return (
        f"It plots the summed loss of the long SGD run (here {long_sum:.0f}) over RMSprop's steps: from "
        f"{long_sum:.0f} down to {long_sum / steps:.3f}, where RMSprop's own running mean ends at {true:.4f}."
    )


def narrow_kernel(image_size: int) -> str:
    grid = np.linspace(-image_size / 2, image_size / 2, image_size, dtype=np.float32)
    squares = grid[:, None] ** 2 + grid**2
    # The nearest points of an even grid are 0.7 pixels away, where exp is 1e-123; float32 ends at 1e-45.
    naive = np.exp(-squares / np.float32(2 * 0.03**2)).sum()
    ours = segjax.gaussian_kernel(image_size, 0.03)
    return (
        f"At sigma 0.03 and {image_size} pixels the notebook's kernel sums to {naive:g} before it is divided by that "
        f"sum; segjax.gaussian_kernel sums to {float(ours.sum()):g}."
    )


def over_seeds(values: Sequence[float] | np.ndarray) -> str:
    """The mean, and the range in parentheses if there are several values."""
    mean, _, spread = tables.spread(np.array(values), ".4f").partition("\n")
    return f"{mean} ({spread})" if spread else mean

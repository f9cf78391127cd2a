"""Image segmentation of Gaussian textures, from random key to trained network, as pure functions of JAX.

What a research script needs most is at the top level: `segjax.__all__`. Everything else is in a module, an attribute of
the package: `segjax.losses`, for example. The modules, in the order in which data passes through them::

    textures       generate_data(key) -> Batch(image, mask): two textures, split by a random smooth mask
    exemplars      generate_crops(key, first, second) -> Batch: the same from photographs of two materials
    convolution    conv2d and the layer Conv: a convolution that is fast in loops and under vmap
    models         SegmentationCNN, UNet, PatchCNN: image -> logits; Network; predict, count_parameters, parameter_table
    layers         the output of each convolution of a trained network, and predictions with one output replaced
    losses         LOSSES: (logits, mask) -> a loss for each example
    metrics        additive counts, then accuracy, IoU, precision, recall, F1; which runs diverged
    edges          additive counts by distance to the true edge, and the agreement of the edges
    oracle         the best possible segmentation: Bayes' rule with the known generative model
    optimizers     OPTIMIZERS: sgd, momentum, rmsprop and adam, as PyTorch defines them
    schedules      SCHEDULES: learning rates that change during a run, from constant to one_cycle
    training       make_train: a whole run as one pure function; make_fit: the same run in chunks
    sweeps         sweep: every seed at every rate in one program, on one device or many
    evaluation     evaluate: counts on fresh images, of a run or a sweep; eval_variables: the evaluation weights
    range_test     the learning-rate range test: one short run with a growing rate
    statistics     of a few seeds: intervals, paired differences and verdicts, the best rate, time to a target
    checkpoints    a tree of arrays and its metadata in one file
    tracking       Log: lines of JSON with losses and counts, to be read while runs train
    torch_weights  weights to and from PyTorch's state_dict
    tiling         segment: a picture of any size, in bounded memory
    plotting       arrays -> Figure

`plotting` loads at first use, since it needs matplotlib.

    >>> import jax, segjax
    >>> train = segjax.make_train(segjax.SegmentationCNN(), num_steps=5, image_size=16, sigma=3)
    >>> state, history = jax.jit(train)(jax.random.key(0), 1e-3)
"""

import importlib
from typing import TYPE_CHECKING

# `as` marks the modules as public for type checkers, although `__all__` does not contain them.
from segjax import checkpoints as checkpoints
from segjax import convolution as convolution
from segjax import edges as edges
from segjax import evaluation as evaluation
from segjax import exemplars as exemplars
from segjax import layers as layers
from segjax import losses as losses
from segjax import metrics as metrics
from segjax import models as models
from segjax import optimizers as optimizers
from segjax import oracle as oracle
from segjax import range_test as range_test
from segjax import schedules as schedules
from segjax import statistics as statistics
from segjax import sweeps as sweeps
from segjax import textures as textures
from segjax import tiling as tiling
from segjax import torch_weights as torch_weights
from segjax import tracking as tracking
from segjax import training as training
from segjax.evaluation import eval_variables, evaluate, recalibrate
from segjax.losses import LOSSES
from segjax.models import PatchCNN, SegmentationCNN, UNet, count_parameters, parameter_table, predict
from segjax.optimizers import OPTIMIZERS
from segjax.schedules import SCHEDULES
from segjax.sweeps import sweep
from segjax.textures import Batch, compose_batch, gaussian_kernel, generate_data
from segjax.training import History, TrainState, make_fit, make_train

# For type checkers, the lazy module is an import. They must not see `__getattr__`, which would accept any name.
if TYPE_CHECKING:
    from segjax import plotting as plotting
else:

    def __getattr__(name):
        # PEP 562: matplotlib takes as long to import as jax, and training needs none of it.
        if name == "plotting":
            return importlib.import_module("segjax.plotting")
        raise AttributeError(f"module 'segjax' has no attribute {name!r}")


__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "Batch",
    "History",
    "PatchCNN",
    "SegmentationCNN",
    "TrainState",
    "UNet",
    "compose_batch",
    "count_parameters",
    "eval_variables",
    "evaluate",
    "gaussian_kernel",
    "generate_data",
    "make_fit",
    "make_train",
    "parameter_table",
    "predict",
    "recalibrate",
    "sweep",
]

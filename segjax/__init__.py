"""Image segmentation of Gaussian textures, from random key to trained network, as pure functions of JAX.

A tour, in the order in which data walks through the package:

    textures       generate_data(key) -> Batch(image, mask): two textures split by a random smooth mask
    exemplars      generate_crops(key, first, second): the same of two photographs; import it by its name
    convolution    conv2d: the convolution, fed to XLA so that loops and vmap stay fast
    models         SegmentationCNN, UNet: image -> logits; predict, count_parameters, parameter_table
    tiling         segment: a picture of any size in bounded memory; import it by its name
    losses         (logits, mask) -> a loss for each example
    metrics        additive counts, then accuracy, IoU, precision, recall, F1 and the notebook's agreement
    optimizers     OPTIMIZERS: sgd, momentum, rmsprop and adam as PyTorch defines them; by_name for any of optax
    schedules      SCHEDULES: rates that move in a run, from constant to one_cycle
    training       make_train: a whole run as one pure function; make_fit: the same run in chunks, for people
    sweeps         sweep: every seed at every rate in one program, on one device or many
    statistics     what a few seeds say: intervals, paired differences, time to a target; import it by its name
    checkpoints    a tree of arrays and its metadata as one file; import it by its name
    torch_weights  to and from the names of PyTorch's state_dict
    checks         what the others ask of their arguments, said in one sentence
    plotting       arrays -> Figure; not imported here, so that segjax needs no matplotlib

    >>> import jax, segjax
    >>> train = segjax.make_train(segjax.SegmentationCNN(), num_steps=20, image_size=32, sigma=6.4)
    >>> state, history = jax.jit(train)(jax.random.key(0), 1e-3)
"""

from segjax import losses, metrics, schedules, torch_weights
from segjax.models import SegmentationCNN, UNet, count_parameters, parameter_table, predict
from segjax.optimizers import OPTIMIZERS
from segjax.sweeps import sweep
from segjax.textures import Batch, compose_batch, gaussian_kernel, generate_data
from segjax.training import History, TrainState, evaluate, make_fit, make_train

__all__ = [
    "OPTIMIZERS",
    "Batch",
    "History",
    "SegmentationCNN",
    "TrainState",
    "UNet",
    "compose_batch",
    "count_parameters",
    "evaluate",
    "gaussian_kernel",
    "generate_data",
    "losses",
    "make_fit",
    "make_train",
    "metrics",
    "parameter_table",
    "predict",
    "schedules",
    "sweep",
    "torch_weights",
]

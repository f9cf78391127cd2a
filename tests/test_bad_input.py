"""Bad input everywhere: whatever is given, a function works or names in a ValueError or TypeError what is wrong."""

import inspect
import math
import re
import traceback
from itertools import product
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from conftest import random_variables

import segjax
from segjax import (
    checkpoints,
    edges,
    exemplars,
    layers,
    metrics,
    plotting,
    range_test,
    statistics,
    textures,
    tiling,
    torch_weights,
    tracking,
)
from segjax.convolution import conv2d
from segjax.models import from_config

KEY = jax.random.key(0)
IMAGE = np.full((1, 8, 8, 1), 0.5, np.float32)
MODEL = segjax.SegmentationCNN(num_channels=2, kernel_size=3)
VARIABLES = random_variables(MODEL)
# Where a good argument has the whole run traced.
TINY = segjax.SegmentationCNN(num_channels=1, kernel_size=1, depth=1)
TEXTURE = {"batch_size": 1, "image_size": 8, "sigma": 2.0}
TRAIN = segjax.make_train(TINY, optimizer=segjax.OPTIMIZERS["sgd"], num_steps=1, **TEXTURE)

AVERAGED, UNTRAINED = optax.contrib.schedule_free_sgd, random_variables(TINY)
STATE = segjax.TrainState(**UNTRAINED, opt_state=AVERAGED(0.1).init(UNTRAINED["params"]), step=np.int32(0))

BATCHES = {"key": KEY, "num_batches": 1, **TEXTURE}

NUMBERS = [-1, 0, 1, 2, 3, 7, 1.5, -0.5, 1e-30, 1e30, math.nan, math.inf, -math.inf, True, np.float32(0.3), np.int64(2)]
ARRAYS = [
    IMAGE,
    IMAGE[0],
    IMAGE.astype(int),
    IMAGE.astype(bool),
    np.full_like(IMAGE, np.nan),
    np.zeros((0, 8, 8, 1), np.float32),
    np.zeros((1, 8, 8, 2), np.float32),
    np.zeros((3, 1, 8, 8), np.float32),
    np.zeros(0),
    np.arange(3.0),
    np.zeros((2, 2), complex),
    np.array(["a"]),
]
TEXTS_AND_TREES = [None, "", "adam", b"x", [], [1, 2], [[1], [1, 2]], {}, {"params": 1}, ()]
OTHERS = [*TEXTS_AND_TREES, object(), print, KEY, jax.random.split(KEY), 1j]
ANYTHING = [*NUMBERS, *ARRAYS, *OTHERS]
# One of each kind of mistake: nothing, no number, below every bound, a name, too many in a row, the wrong shape.
WORST = [None, math.nan, -1, "adam", [1, 2], np.zeros((1, 8, 8, 2), np.float32)]

LOGITS = {"logits": IMAGE, "mask": IMAGE}
PAIRS = {"values": [0.1, 0.2], "reference": [0.2, 0.2], "higher_is_better": True}
SCHEDULE = {"learning_rate": 0.1, "num_steps": 5}
PICTURE = IMAGE[0, ..., 0]
COUNTS, EDGES = metrics.Counts(*[np.ones(20, int)] * 5), edges.EdgeCounts(*[np.ones(5, int)] * 6)
SCORES = (metrics.accuracy, metrics.iou, metrics.precision, metrics.recall, metrics.f1, metrics.agreement)
HISTORY = segjax.History(np.ones(20, np.float32), COUNTS)

# name -> (function of keyword arguments, good ones)
FUNCTIONS = {
    "generate_data": (segjax.generate_data, {"key": KEY, "sigma1": 0.2, "sigma2": 1.2, **TEXTURE}),
    "compose_batch": (
        segjax.compose_batch,
        {"noise": np.zeros((3, 1, 8, 8), np.float32), "sigma1": 0.2, "sigma2": 1.2, "sigma": 2.0},
    ),
    "rescale": (textures.rescale, {"images": PICTURE}),
    "blur": (textures.blur, {"fields": PICTURE[None], "sigma": 1.0}),
    "mix_crops": (exemplars.mix_crops, {"mask": PICTURE[None] > 0, "first": PICTURE[None], "second": PICTURE[None]}),
    "average_channel": (lambda index, after: layers.average_channel(index)(after, after), {"index": 0, "after": IMAGE}),
    "predict_changed": (
        layers.predict_changed,
        {"model": MODEL, "variables": VARIABLES, "image": IMAGE, "layer": "conv1", "change": layers.average},
    ),
    "rows": (tracking.rows, {"history": HISTORY, "num_steps": 20, "every": 10, "after": 0}),
    "gaussian_kernel": (segjax.gaussian_kernel, {"image_size": 8, "sigma": 2.0}),
    "conv2d": (conv2d, {"inputs": IMAGE, "kernel": np.zeros((3, 3, 1, 2), np.float32)}),
    "SegmentationCNN": (
        lambda **o: segjax.SegmentationCNN(**o).init(KEY, IMAGE),
        {"num_channels": 2, "kernel_size": 3, "depth": 2, "shared_norm": True},
    ),
    "UNet": (lambda **o: segjax.UNet(**o).init(KEY, IMAGE), {"num_channels": 2}),
    "predict": (segjax.predict, {"model": MODEL, "variables": VARIABLES, "image": IMAGE}),
    "from_config": (from_config, {"config": {"network": "SegmentationCNN"}}),
    **{loss.__name__: (loss, LOGITS) for loss in segjax.LOSSES.values()},
    "count": (segjax.metrics.count, LOGITS),
    "count_each": (segjax.metrics.count_each, LOGITS),
    "edges.count": (segjax.edges.count, {**LOGITS, "tolerance": 2.0}),
    "edge_distance": (segjax.edges.edge_distance, {"mask": np.zeros((1, 8, 8), bool)}),
    "texture_covariance": (segjax.oracle.texture_covariance, {"window": 3, "sigma": 0.2, "image_size": 8}),
    "interior_error": (
        segjax.oracle.interior_error,
        {"key": KEY, "sigma1": 0.2, "sigma2": 1.2, "window": 2, "image_size": 8, "grey_levels": 256, "num_windows": 4},
    ),
    **{score.__name__: (score, {"counts": COUNTS}) for score in SCORES},
    **{score.__name__: (score, {"counts": EDGES}) for score in (edges.error, edges.boundary_f)},
    "running_mean": (segjax.metrics.running_mean, {"values": [1.0, 2.0]}),
    "last_tenth": (segjax.metrics.last_tenth, {"values": np.ones(20)}),
    "diverged_at": (segjax.metrics.diverged_at, {"loss": np.ones(20), "params": VARIABLES}),
    "cosine": (lambda **o: segjax.schedules.cosine(**o)(0), SCHEDULE),
    "one_cycle": (lambda **o: segjax.schedules.one_cycle(**o)(0), SCHEDULE),
    **{f"a step of {name}": (schedule(0.1, 5), {"step": 3}) for name, schedule in segjax.SCHEDULES.items()},
    "growing": (range_test.growing(2.0), {"learning_rate": 0.1, "num_steps": 3}),
    "suggest": (range_test.suggest, {"rates": [0.1, 1.0], "smoothed": [[2.0, 1.0]]}),
    "regret": (range_test.regret, {"rate": 0.5, "rates": [0.1, 1.0], "losses": [2.0, 1.0]}),
    **{name: (optimizer, {"learning_rate": 0.1}) for name, optimizer in segjax.OPTIMIZERS.items()},
    "make_train": (
        segjax.make_train,
        {"model": TINY, "optimizer": segjax.OPTIMIZERS["sgd"], "num_steps": 2, **TEXTURE},
    ),
    "make_fit": (segjax.make_fit, {"model": TINY, "num_steps": 2, "chunk_size": 1, **TEXTURE}),
    "train": (TRAIN, {"key": KEY, "learning_rate": 0.1, "resume_from": None, "sigma1": 0.2}),
    "evaluate": (segjax.evaluate, {"model": TINY, "variables": UNTRAINED, **BATCHES}),
    "recalibrate": (segjax.recalibrate, {"model": TINY, "variables": UNTRAINED, **BATCHES}),
    "eval_variables": (segjax.eval_variables, {"model": TINY, "optimizer": AVERAGED, "state": STATE, **BATCHES}),
    "count_parameters": (segjax.count_parameters, {"variables": VARIABLES}),
    "parameter_table": (segjax.parameter_table, {"variables": VARIABLES}),
    "sweep": (
        segjax.sweep,
        {"train": TRAIN, "keys": jax.random.split(KEY), "learning_rates": [0.1], "width": 1, "sigma1": [0.2]},
    ),
    "bootstrap": (statistics.bootstrap, {"values": [0.1, 0.2, 0.3], "level": 0.9}),
    "mean": (statistics.mean, {"values": [0.1, 0.2], "axis": 0}),
    "sequential": (statistics.sequential, {"differences": [0.1, 0.2], "level": 0.9, "effect_variance": 1.0}),
    "compare": (statistics.compare, PAIRS),
    "verdict": (statistics.verdict, PAIRS),
    "best_rate": (statistics.best_rate, {"rates": [0.1, 1.0], "losses": [[0.3, 0.2]], "diverged": [[False, True]]}),
    "proportion": (statistics.proportion, {"successes": 1, "trials": 2, "level": 0.9}),
    "steps_to_target": (
        statistics.steps_to_target,
        {"curves": [3.0, 1.0], "target": 2.0, "higher_is_better": False, "window": 1},
    ),
    "profile": (statistics.profile, {"values": [1.0, 2.0], "at": [1.5]}),
    "generate_crops": (
        exemplars.generate_crops,
        {"key": KEY, "first": PICTURE, "second": PICTURE, "contrast": 0.1, **TEXTURE, "image_size": 4},
    ),
    "segment": (
        tiling.segment,
        {"model": MODEL, "variables": VARIABLES, "image": PICTURE, "image_size": 8, "tile_size": 4},
    ),
    "to_training_scale": (tiling.to_training_scale, {"image": PICTURE, "image_size": 4}),
    "model_of": (torch_weights.model_of, {"variables": VARIABLES}),
    "from_state_dict": (torch_weights.from_state_dict, {"arrays": torch_weights.to_state_dict(VARIABLES)}),
    "to_state_dict": (torch_weights.to_state_dict, {"variables": VARIABLES}),
    "restore": (checkpoints.restore, {"template": {"a": np.zeros(2)}, "arrays": {"a": np.zeros(2)}}),
}
PICTURES = [[plotting.Picture("image", PICTURE)]]
PANEL = {"ylabel": "loss", "curves": {"adam": np.ones((2, 4))}, "x": np.arange(4.0), "log": True, "ordered": False}
TITLE = {"title": "title", "width": None}
LABELS = {"xlabel": "seconds", **TITLE}
FIGURES = {
    "training_curves": (plotting.training_curves, {"panels": [plotting.Panel(**PANEL)], **TITLE}),
    "Panel": (lambda **panel: plotting.training_curves([plotting.Panel(**panel)], "title"), PANEL),
    "predictions": (
        plotting.predictions,
        {"image": PICTURE, "mask": PICTURE > 0, "probabilities": {"array": PICTURE}, **TITLE},
    ),
    "pictures": (plotting.pictures, {"grid": PICTURES, "names": ("row",), "size": 2.5, "bar": "", **TITLE}),
    "bars": (plotting.bars, {"values": {"adam": np.ones(3)}, "log": True, **LABELS}),
    "heatmap": (
        plotting.heatmap,
        {"values": np.eye(2), "rows": "ab", "columns": "cd", "labels": "xyz", "form": ".2f", "ranks": None, **TITLE},
    ),
    "scores": (
        plotting.scores,
        {"values": {"adam": np.ones((2, 3))}, "groups": "ab", "xlabels": "cd", "order": (), **TITLE},
    ),
    "dots": (
        plotting.dots,
        {"values": {"adam": np.ones(3)}, "reference": np.ones(1), "labels": ("ours", "theirs"), **LABELS},
    ),
    "sensitivity": (
        plotting.sensitivity,
        {"rates": [0.1, 1.0], "losses": {"a": np.ones((3, 2))}, "diverged": {"a": np.zeros((3, 2), bool)}}
        | {"ylabel": "loss", "bands": {"a": np.ones((2, 2))}, "order": (), **TITLE},
    ),
    "differences": (
        plotting.differences,
        {"estimates": {"a": [(0.1, 0.0, 0.2)]}, "pairs": {"a": [np.ones(3)]}, "xlabels": ["loss"]}
        | {"higher_is_better": [False], "order": ["a"], **TITLE},
    ),
    "tradeoff": (
        plotting.tradeoff,
        {"points": {"a": (1.0, 2.0)}, "ylabel": "loss", "xlog": True, "horizontal_lines": {"best": 1.0}, **LABELS},
    ),
}
FUNCTIONS |= FIGURES

# Loops over pieces of arrays that are there: nothing can be traced.
ON_THE_HOST = (*FIGURES, "segment", "to_training_scale", "interior_error")
PACKAGE = str(Path(segjax.__file__).parent)


def call(name, **changes):
    function, good = FUNCTIONS[name]
    if name in ON_THE_HOST:
        function(**{**good, **changes})
    else:
        # Traced alone: what a function makes of its arguments' values is for other tests.
        jax.eval_shape(lambda: (function(**{**good, **changes}), None)[1])


# `sweep` is traced anew for each value, and `bootstrap` loads scipy.stats: the inner loop has them in their own files.
each_function = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in ("sweep", "bootstrap") else name for name in FUNCTIONS],
)


def test_every_function_of_the_top_level_is_tried():
    assert {name for name in segjax.__all__ if inspect.isfunction(getattr(segjax, name))} <= FUNCTIONS.keys()


@each_function
def test_good_arguments_are_good(name):
    call(name)


@each_function
def test_functions_refuse_the_worst_in_words(name):
    for argument, value in product(FUNCTIONS[name][1], WORST):
        assert_works_or_says_what_is_wrong(name, argument, value)


@pytest.mark.deep
@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_functions_take_anything_or_say_what_is_wrong(name):
    for argument, value in product(FUNCTIONS[name][1], ANYTHING):
        assert_works_or_says_what_is_wrong(name, argument, value)


def assert_works_or_says_what_is_wrong(name, argument, value):
    try:
        call(name, **{argument: value})
    except (ValueError, TypeError) as error:
        message, place = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
        attempt = f"{argument}={value!r:.60}: {message}"
        # One argument may be wrong for what another is, and then the other may be named.
        assert any(re.search(rf"\b{word}\b", message) for word in (*FUNCTIONS[name][1], "tree")), attempt
        # A check of ours, and no accident further down, of jax or NumPy.
        assert place.startswith(PACKAGE), f"{attempt}, from {place}"

"""The training of learn_textures beside scikit-image's TrainableSegmenter, on the same boxes of 20 composed pictures.

From the root of the repository, with scikit-learn on PYTHONPATH; about 20 s of processor time per picture:

    PYTHONPATH=$PWD python docs/real-pictures/measure.py results/beside-trainable

The folder gets rows.json, and the picture whose difference is the median, as picture.png. The network is trained in
this process, by one program for all pictures: its compilation, and what else the command does, are not in the times.
"""

import json
import resource
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import scipy
from PIL import Image
from skimage.feature import multiscale_basic_features
from skimage.future import TrainableSegmenter
from sklearn.ensemble import RandomForestClassifier

import segjax
from experiments.lab.names import ARCHITECTURES
from experiments.learn_textures import Crops, split
from experiments.pictures import areas
from experiments.timed.clock import Timed
from segjax import plotting, tiling
from segjax.exemplars import generate_crops

NUMBER, SIDE, SIGMA, STEPS = 20, 512, 51.2, 500
# Side of the boxes in pixels. The edge of the mask, which is blended, is at least this far from them.
BOX, MARGIN = 96, 4
CROPS, TIMED = Crops(image_size=BOX // 2), Timed()
PAIRS = (("brick", "grass"), ("grass", "gravel"), ("brick", "gravel"))
DATA = Path(find_spec("skimage").origin).parent / "data"
# As its class is without arguments, and as in scikit-image's gallery.
THEIRS = {
    "default": lambda: TrainableSegmenter(RandomForestClassifier(n_estimators=100, n_jobs=-1, random_state=0)),
    "gallery": lambda: TrainableSegmenter(
        RandomForestClassifier(n_estimators=50, n_jobs=-1, max_depth=10, max_samples=0.05, random_state=0),
        partial(multiscale_basic_features, edges=False, sigma_min=1, sigma_max=16),
    ),
}


def composed(seed):
    """A picture in 8 bits, its mask, and a box in each material; drawn again until both have room for one."""
    rng = np.random.default_rng(seed)
    names = PAIRS[seed % len(PAIRS)]
    photographs = [np.asarray(Image.open(DATA / f"{name}.png").convert("L"), np.float32) / 255 for name in names]
    while True:
        picture, mask = areas.compose(rng, photographs[:1], photographs[1:], SIDE, SIGMA, 0.0)
        boxes = [box_in(mask), box_in(~mask)]
        if all(boxes):
            return names, np.round(255 * picture.clip(0, 1)).astype(np.uint8), mask, boxes


def box_in(mask):
    """The first box in the mask in reading order, as slices of rows and columns; None if there is none."""
    side = BOX + 2 * MARGIN
    filled = scipy.ndimage.minimum_filter(mask, side, mode="constant", cval=0)
    if not filled.any():
        return None
    y, x = (int(centre) - side // 2 + MARGIN for centre in np.argwhere(filled)[0])
    return slice(y, y + BOX), slice(x, x + BOX)


def training():
    """The training of `learn_textures --steps`: (key, first, second) -> state, compiled; either is (height, width)."""
    part = np.zeros((BOX, BOX - CROPS.image_size), np.float32)
    optimizer = segjax.OPTIMIZERS[TIMED.optimizer]
    generate = partial(generate_crops, batch_size=CROPS.batch_size, contrast=CROPS.contrast, **CROPS.masks)
    train = segjax.make_train(
        ARCHITECTURES[TIMED.architecture],
        optimizer=lambda rate: optimizer(segjax.SCHEDULES[TIMED.schedule](rate, round(STEPS / TIMED.covered))),
        loss=segjax.LOSSES[TIMED.loss],
        num_steps=STEPS,
        generate=generate,
        first=part,
        second=part,
    )
    program = jax.jit(lambda key, first, second: train(key, TIMED.learning_rate, first=first, second=second)[0])
    return program.lower(jax.random.key(0), part, part).compile()


def ours(program, picture, boxes):
    """The mask, and the processor seconds to train and to segment."""
    grey = picture.astype(np.float32) / 255
    times = [processor_seconds()]
    (first, _), (second, _) = (split("a box", grey[box], CROPS.image_size) for box in boxes)
    variables = jax.device_get(program(jax.random.key(0), first, second).variables)
    times.append(processor_seconds())
    mask = tiling.segment(ARCHITECTURES[TIMED.architecture], variables, grey, CROPS.image_size) > 0.5
    return mask, np.diff([*times, processor_seconds()]).tolist()


def theirs(segmenter, picture, boxes):
    """The same of another segmenter, which is trained on all pixels of the boxes."""
    labels = np.zeros(picture.shape, int)
    for label, box in enumerate(boxes, start=1):
        labels[box] = label
    times = [processor_seconds()]
    segmenter.fit(picture, labels)
    times.append(processor_seconds())
    mask = segmenter.predict(picture) == 1
    return mask, np.diff([*times, processor_seconds()]).tolist()


def processor_seconds():
    """On a shared machine the clock tells nothing."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def iou(mask, truth, boxes):
    """The IoU of the first material outside the boxes."""
    counted = np.ones(truth.shape, bool)
    for box in boxes:
        counted[box] = False
    return float((mask & truth & counted).sum() / ((mask | truth) & counted).sum())


def measure(folder):
    folder.mkdir(parents=True, exist_ok=True)
    start = processor_seconds()
    program = training()
    print(f"compilation: {processor_seconds() - start:.1f} s")
    rows, drawn = [], []
    for seed in range(NUMBER):
        names, picture, truth, boxes = composed(seed)
        results = {"ours": ours(program, picture, boxes)}
        results |= {name: theirs(make(), picture, boxes) for name, make in THEIRS.items()}
        corners = [(box[1].start, box[0].start) for box in boxes]
        rows.append({"materials": names, "corners": corners, "share": float(truth.mean())})
        for name, (mask, (train, segment)) in results.items():
            rows[-1][name] = {"iou": iou(mask, truth, boxes), "train": train, "segment": segment}
        drawn.append([picture / 255.0, truth, *(mask for mask, _ in results.values())])
        print(seed, json.dumps(rows[-1]), flush=True)
        (folder / "rows.json").write_text(json.dumps(rows, indent=1))
    summarize(rows)
    figure(rows, drawn).savefig(folder / "picture.png", dpi=100)


def summarize(rows):
    for name in ("ours", *THEIRS):
        columns = {key: [row[name][key] for row in rows] for key in ("iou", "train", "segment")}
        print(
            f"{name:8}", *(f"{key} {np.median(x):.3f} ({min(x):.3f} to {max(x):.3f})  " for key, x in columns.items())
        )
    for name in THEIRS:
        differences = np.array([row["ours"]["iou"] - row[name]["iou"] for row in rows])
        print(f"better than {name}: {(differences > 0).sum()} of {len(rows)}, median {np.median(differences):+.3f}")


def figure(rows, drawn):
    """The picture whose difference to the better of the two others is the median."""
    differences = [row["ours"]["iou"] - max(row[name]["iou"] for name in THEIRS) for row in rows]
    middle = int(np.argsort(differences)[len(rows) // 2])
    titles = ("picture", "true mask", "this training", "TrainableSegmenter", "as in its gallery")
    kinds = ["image", *["mask"] * 4]
    cells = [plotting.Picture(*cell) for cell in zip(titles, drawn[middle], kinds, strict=True)]
    return plotting.pictures([cells], "{} (yellow) and {} (blue)".format(*rows[middle]["materials"]))


if __name__ == "__main__":
    measure(Path(sys.argv[1]))

"""Absurd numbers in options: each is refused in one line or in tyro's frame, before there is a folder or a program."""

import importlib

import pytest
from conftest import DATA
from tries import check_frame, check_one_line, type_in

from experiments.lab.options import flag
from tests.experiments.small_runs import SMALL, options_of

FLOAT = "must be a finite number > 0, got"
# A number that no option > 0 takes -> the message.
NO_POSITIVE = {
    "0": f"{FLOAT} 0.0",
    "-0.0": f"{FLOAT} -0.0",
    "-1": f"{FLOAT} -1.0",
    "nan": f"{FLOAT} nan",
    "-nan": f"{FLOAT} nan",
    "inf": f"{FLOAT} inf",
    "1e999": f"{FLOAT} inf",
    "1e-50": f"{FLOAT} 1e-50, which is 0 in float32",
    "1e-39": f"{FLOAT} 1e-39, which is 0 in float32",
    "1e-400": f"{FLOAT} 0.0",
    "1e39": f"{FLOAT} 1e+39, which is infinite in float32",
}
# The same for a count from 1.
NO_COUNT = {
    "0": "must be an integer >= ",
    "-1": "must be an integer >= ",
    "2147483648": "must be an integer <= ",
    "99999999999999999999999": "must be an integer <= ",
}
# Words that are no number at all -> what tyro's frame says.
NO_FLOAT = {
    "True": "could not convert string to float: 'True'",
    "": "could not convert string to float: ''",
    "1,5": "could not convert string to float: '1,5'",
    "0x10": "could not convert string to float: '0x10'",
    "1e-3\x1b[31m": r"1e-3\x1b[31m",
}
NO_INTEGER = {
    "9" * 5000: "Exceeds the limit",
    "1.0": "invalid literal for int",
    "1e3": "invalid literal for int",
    "True": "invalid literal for int",
    "nan": "invalid literal for int",
    "\x1b[31m": r"\x1b[31m",
}
POSITIVE = {
    "train_model": ("sigma", "sigma1", "sigma2", "learning_rate", "checkpoint_seconds"),
    "train_best_model": ("seconds", "covered"),
    "find_learning_rate": ("low", "high"),
    "compare_optimizers": ("target_loss", "target_iou"),
    "segment_image": ("max_megapixels",),
}
COUNTS = {
    "train_model": ("image_size", "batch_size", "iterations", "show_every"),
    "train_best_model": ("held_out",),
    "find_learning_rate": ("steps", "seeds"),
    "compare_optimizers": ("seeds", "tuning_seeds", "width"),
    "segment_image": ("tile_size",),
}
# Options of the first command are tried with every word, others with these, since they have the same checks.
FEW = ("nan", "1e-50", "1e39", "0", "2147483648", "1e3")


def cases(options, messages):
    return [
        pytest.param(name, option, word, message, id=f"{name}-{option}-{word[:12]!r}")
        for name in options
        for option in options[name]
        for word, message in messages.items()
        if name == "train_model" or word in FEW
    ]


def type_number(name, option, word, tmp_path):
    script = importlib.import_module(f"experiments.{name}")
    assert option in options_of(script)
    # A number is refused before a file is looked at.
    words = ["nowhere.safetensors", DATA / "grain.png"] if name == "segment_image" else SMALL
    ended = type_in(name, *words, f"{flag(option)}={word}", "--out", tmp_path / "out")
    assert flag(option) in ended.err
    assert not list(tmp_path.iterdir())
    return ended


@pytest.mark.parametrize(
    ("name", "option", "word", "message"), [*cases(POSITIVE, NO_POSITIVE), *cases(COUNTS, NO_COUNT)]
)
def test_a_number_out_of_range(name, option, word, message, tmp_path):
    check_one_line(type_number(name, option, word, tmp_path), 2, message)


@pytest.mark.parametrize(
    ("name", "option", "word", "message"), [*cases(POSITIVE, NO_FLOAT), *cases(COUNTS, NO_INTEGER)]
)
def test_a_word_that_is_no_number(name, option, word, message, tmp_path):
    check_frame(type_number(name, option, word, tmp_path), message)


TOO_MANY = "must be at most 2^31 - 1 pixels, got"
OTHERS = {
    "images that no memory holds": ("train_model", ["--image-size", "2000000000"], TOO_MANY),
    "a batch that no memory holds": ("train_model", ["--batch-size", "2000000000"], TOO_MANY),
    "both together": ("find_learning_rate", ["--image-size", "16384", "--batch-size", "8"], TOO_MANY),
    "by the clock": ("train_best_model", ["--image-size", "65536"], TOO_MANY),
    "a seed beyond jax's": ("train_model", ["--seed", "4294967296"], "--seed must be an integer <= 4294967295"),
    "seeds beyond jax's": ("find_learning_rate", ["--seed", "4294967295", "--seeds", "2"], "<= 4294967294"),
    "a seed below 0": ("train_model", ["--seed", "-1"], "--seed must be an integer >= 0"),
    "a covered share above 1": ("train_best_model", ["--covered", "1.0000001"], "--covered must be in (0, 1]"),
    "rates the wrong way": ("find_learning_rate", ["--low", "1", "--high", "1e-3"], "--low must be below --high"),
    "equal rates": ("find_learning_rate", ["--low", "1", "--high", "1"], "--low must be below --high"),
    "a rate among others": ("compare_optimizers", ["--tune", "--rates", "1e-3", "1e-50"], "got 1e-50"),
    "a rate twice": ("compare_optimizers", ["--tune", "--rates", "1e-3", "0.001"], "rates"),
    "no rates": ("compare_optimizers", ["--tune", "--rates"], "rates"),
    "an optimizer's rate": ("compare_optimizers", ["--optimizers", "adam=1e-50"], "1e-50"),
    "an optimizer's rate of nothing": (
        "compare_optimizers",
        ["--optimizers", "adam="],
        "--optimizers adam=: rates must be different numbers > 0, got ''",
    ),
    "an optimizer's rate of no number": (
        "compare_optimizers",
        ["--optimizers", "adam=x"],
        "--optimizers adam=x: rates must be different numbers > 0, got 'x'",
    ),
    "more workers than cores": ("compare_optimizers", ["--workers", "100000"], "must be at most the number of cores"),
    "workers below 0": ("compare_optimizers", ["--workers", "-1"], "--workers must be an integer >= 0"),
    "workers and a cluster": (
        "compare_optimizers",
        ["--workers", "1", "--cluster", "tcp://localhost:8786"],
        "--workers starts local processes and --cluster takes those of a scheduler: give one",
    ),
    "a cluster without a scheme": ("compare_optimizers", ["--cluster", "localhost:8786"], "or a file, got 'localhost"),
    "a width below 1": ("compare_optimizers", ["--width", "0"], "--width must be an integer >= 1"),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_numbers_that_make_no_sense_together(name, tmp_path):
    script, words, message = OTHERS[name]
    ended = type_in(script, *SMALL, "--out", tmp_path / "out", *words)
    check_one_line(ended, 2, message)
    assert not list(tmp_path.iterdir())


def test_two_numbers_for_one(tmp_path):
    ended = type_in("train_model", *SMALL, "--out", tmp_path / "out", "--learning-rate", "1e-3", "1e-2")
    check_frame(ended, "1e-2")
    assert not list(tmp_path.iterdir())


SIGMAS = [(option, word) for option in ("sigma", "sigma1", "sigma2") for word in ("1e-20", "1e-30")]


@pytest.mark.parametrize(("option", "word"), SIGMAS)
def test_a_sigma_whose_square_is_nothing(option, word, tmp_path):
    ended = type_in("train_model", *SMALL, flag(option), word, "--out", tmp_path / "out")
    check_one_line(ended, 2, f"{flag(option)} {FLOAT} {word}, whose square is 0 in float32")
    assert not list(tmp_path.iterdir())

"""The options that questions share: their checks, the run that they describe, and how results.json has them."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from experiments.lab import options, provenance
from experiments.lab.options import Comparison, Data, Engine, Seed, Seeds, Training
from experiments.lab.runs import Run, Texture


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (Training(iterations=0), "--iterations must be an integer >= 1"),
        (Seeds(seeds=0), "--seeds must be an integer >= 1"),
        (Seeds(seed=-1), "--seed must be an integer >= 0"),
        (Seeds(seed=2**32), "--seed must be an integer <= 4294967293"),
        # The last seed counts, not the first.
        (Seeds(seed=2**32 - 2), "--seed must be an integer <= 4294967293"),
        (Seed(seed=-1), "--seed must be an integer >= 0"),
        (Seed(seed=2**32), "--seed must be an integer <= 4294967295"),
        (Data(batch_size=0), "--batch-size must be an integer >= 1"),
        (Data(image_size=1), "--image-size must be an integer >= 2"),
        (Data(sigma=-2.0), "--sigma must be a finite number > 0"),
        (Data(sigma1=float("nan")), "--sigma1 must be a finite number > 0"),
        (Training(checkpoint_seconds=0.0), "--checkpoint-seconds must be a finite number > 0"),
        (Engine(width=0), "--width must be an integer >= 1"),
        (Engine(width=1.5), "--width must be an integer >= 1"),
        (Engine(workers=-1), "--workers must be an integer >= 0"),
        (Engine(workers=1000), "--workers must be at most the number of cores, .*, got 1000"),
        (Engine(workers=1, cluster="tcp://localhost:8786"), "--workers starts local processes and --cluster takes .*"),
        (Engine(cluster="localhost:8786"), "--cluster must be tcp://HOST:PORT, tls://HOST:PORT or a file, got 'local"),
        (Engine(cluster="tcp://x"), "--cluster must be tcp://HOST:PORT, tls://HOST:PORT or a file, got 'tcp://x'"),
        (Engine(cluster="ucx://x:1"), "--cluster must be tcp://HOST:PORT, tls://HOST:PORT or a file, got 'ucx://x:1'"),
        (Training(precision="float32"), "--precision must be one of: default, high, highest; got 'float32'"),
        (Training(schedule="linear"), "--schedule must be one of: constant, .*; got 'linear'"),
        # Someone who writes a script of their own may pass what no command line gives.
        (Training(schedule=None), "--schedule must be one of: constant, .*; got None"),
    ],
)
def test_an_option_that_is_out_of_range_is_named(group, message):
    with pytest.raises((ValueError, TypeError), match=message):
        group.check()
    # A question checks all its groups.
    names = {Training: "training", Seeds: "seeds", Data: "data", Engine: "engine"}
    if type(group) in names:
        with pytest.raises((ValueError, TypeError), match=message):
            Comparison(**{names[type(group)]: group}).check()


@pytest.mark.parametrize("inches", [1e-30, 1.9, 41.0, 1e6, -3.0, float("nan")])
def test_a_pdf_has_a_width_that_its_text_fits_and_memory_holds(inches):
    with pytest.raises(ValueError, match=f"--pdf must be 2 to 40 inches, got {re.escape(f'{inches:g}')}"):
        Comparison(pdf=inches).check()
    for width in (2.0, 40.0):
        Comparison(pdf=width).check()


@pytest.mark.parametrize("sizes", [{"batch_size": 10**8}, {"image_size": 2 * 10**9}])
def test_images_that_no_memory_holds_are_one_line(sizes):
    words = r"the held-out images, 16 \* --batch-size \* --image-size\^2, must be at most 2\^31 - 1 pixels"
    with pytest.raises(ValueError, match=words) as error:
        Data(**sizes).check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "--losses must be different names out of: mse, bce"),
        (["mse", "mse"], "--losses must be different names out of: mse, bce"),
        (["mse", "hinge"], "--losses must be one of: mse, bce; got 'hinge'"),
    ],
)
def test_names_are_different_and_known(values, message):
    with pytest.raises(ValueError, match=message):
        options.check_names("--losses", values, ["mse", "bce"])
    options.check_names("--losses", ["bce", "mse"], ["mse", "bce"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"optimizer": "lion"}, "--optimizer must be one of: sgd, momentum, rmsprop, adam; got 'lion'"),
        ({"loss": "hinge"}, "--loss must be one of: mse, bce, dice; got 'hinge'"),
        ({"architecture": "vgg"}, "--architecture must be one of: notebook, .*; got 'vgg'"),
    ],
)
def test_the_names_of_a_training_are_known(names, message):
    with pytest.raises(ValueError, match=message):
        options.check_training(**names)
    options.check_training()


def test_a_run_is_what_the_options_describe():
    data = Data(image_size=16, sigma=4.0, sigma2=2.0, batch_size=2)
    comparison = Comparison(data=data, training=Training(iterations=7, schedule="cosine"))
    run = comparison.run(5, optimizer="sgd", learning_rate=0.1, objective="dice")
    texture = Texture(batch_size=2, image_size=16, sigma1=0.2, sigma2=2.0, sigma=4.0)
    assert run == Run(5, "sgd", 0.1, 7, "cosine", "dice", "notebook", texture)
    # A seed and a rate are the arguments of one compiled program.
    assert run.program == comparison.run(6, optimizer="sgd", learning_rate=0.2, objective="dice").program
    assert run.program != comparison.run(5, optimizer="sgd", learning_rate=0.1).program


def test_sigma_follows_the_image_size_as_in_the_notebook():
    assert Data().texture == Texture()
    assert Data(image_size=32).texture.sigma == 6.4
    assert Data(image_size=32, sigma=2.0).texture.sigma == 2.0
    assert Data(image_size=32).size == "32 x 32"


@pytest.mark.parametrize(
    ("seeds", "numbers", "text"), [(3, [5, 6, 7], "mean and range of 3 seeds"), (1, [5], "seed 5")]
)
def test_seeds_follow_the_first(seeds, numbers, text):
    group = Seeds(seed=5, seeds=seeds)
    assert list(group) == numbers
    assert f"{group}" == text


@pytest.mark.parametrize(
    ("precision", "setting"),
    # jax's own stays where none is asked for, and for a value that `check` refuses.
    [("default", None), ("high", "high"), ("highest", "highest"), ("float32", None), (["high"], None)],
)
def test_a_precision_is_that_of_one_command(precision, setting):
    with Comparison(training=Training(precision=precision)).prepared():
        assert provenance.numerics()["default_matmul_precision"] == setting
        name = (setting or "default").upper()
        assert f"[{name}, {name}]" in jax.jit(jnp.dot).lower(jnp.ones(2), jnp.ones(2)).as_text()
    assert provenance.numerics()["default_matmul_precision"] is None


def test_options_are_flat_in_files():
    flat = Comparison(seeds=Seeds(seed=3, seeds=4), data=Data(sigma1=0.3)).flat
    assert (flat["seed"], flat["seeds"], flat["sigma1"], flat["overwrite"]) == (3, 4, 0.3, False)
    # As a number also where it follows the image size: a reader of the file need not know the rule.
    assert flat["sigma"] == 25.6
    assert not any(isinstance(value, options.Group) for value in flat.values())
    groups = {Data: 5, Training: 6, Seeds: 2, Engine: 3}
    assert {group: len(dataclasses.fields(group)) for group in groups} == groups
    assert len(flat) == sum(groups.values()) + len(["out", "overwrite", "pdf"])

"""The options that experiments share: their checks, the run that they describe, and what results depend on."""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from experiments.lab import options, provenance
from experiments.lab.options import Command, Comparison, Images
from experiments.lab.runs import Run, Texture


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "--iterations must be an integer >= 1"),
        ({"seeds": 0}, "--seeds must be an integer >= 1"),
        ({"seed": -1}, "--seed must be an integer >= 0"),
        ({"seed": 2**32}, "--seed must be an integer <= 4294967293"),
        # The last seed counts, not the first.
        ({"seed": 2**32 - 2}, "--seed must be an integer <= 4294967293"),
        ({"batch_size": 0}, "--batch-size must be an integer >= 1"),
        ({"image_size": 1}, "--image-size must be an integer >= 2"),
        ({"sigma": -2.0}, "--sigma must be a finite number > 0"),
        ({"sigma1": float("nan")}, "--sigma1 must be a finite number > 0"),
        ({"checkpoint_seconds": 0.0}, "--checkpoint-seconds must be a finite number > 0"),
        ({"width": 0}, "--width must be an integer >= 1"),
        ({"width": 1.5}, "--width must be an integer >= 1"),
        ({"precision": "float32"}, "--precision must be one of: default, high, highest; got 'float32'"),
        ({"schedule": "linear"}, "--schedule must be one of: constant, .*; got 'linear'"),
        # A file may hold what no command line gives.
        ({"schedule": None}, "--schedule must be one of: constant, .*; got None"),
        ({"overwrite": "yes"}, "--overwrite must be true or false, got 'yes'"),
    ],
)
def test_what_is_out_of_range_is_named(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Comparison(**changes).check()


@pytest.mark.parametrize("sizes", [{"batch_size": 10**8}, {"image_size": 2 * 10**9}])
def test_images_that_no_memory_holds_are_one_line(sizes):
    words = r"the held-out images, 16 \* --batch-size \* --image-size\^2, must be at most 2\^31 - 1 pixels"
    with pytest.raises(ValueError, match=words) as error:
        Images(**sizes).check()
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


def test_a_run_is_what_the_options_say():
    given = Comparison(image_size=16, sigma=4.0, sigma2=2.0, batch_size=2, iterations=7, schedule="cosine")
    run = given.run(5, optimizer="sgd", learning_rate=0.1, objective="dice")
    texture = Texture(batch_size=2, image_size=16, sigma1=0.2, sigma2=2.0, sigma=4.0)
    assert run == Run(5, "sgd", 0.1, 7, "cosine", "dice", "notebook", texture)
    # A seed and a rate are the arguments of one compiled program.
    assert run.program == given.run(6, optimizer="sgd", learning_rate=0.2, objective="dice").program
    assert run.program != given.run(5, optimizer="sgd", learning_rate=0.1).program


@pytest.mark.parametrize(
    ("seeds", "all_seeds", "words"), [(3, [5, 6, 7], "mean and range of 3 seeds"), (1, [5], "seed 5")]
)
def test_seeds_follow_the_first(seeds, all_seeds, words):
    given = Comparison(seed=5, seeds=seeds)
    assert list(given.all_seeds) == all_seeds
    assert given.over_seeds == words


def test_what_changes_no_result_is_not_in_the_identity(tmp_path):
    given = Comparison()
    same = replace(given, preset="quick", out=tmp_path, overwrite=True, checkpoint_seconds=1.0, width=2)
    assert same.identity("it") == given.identity("it")
    assert replace(given, deterministic=True).identity("it") != given.identity("it")
    assert replace(given, precision="high").identity("it") != given.identity("it")
    assert given.identity("other") != given.identity("it")


@pytest.mark.parametrize(
    ("precision", "told"),
    # jax's own stays where none is asked for, and where a file holds what is none: the check refuses that.
    [("default", None), ("high", "high"), ("highest", "highest"), ("float32", None), (["high"], None)],
)
def test_a_precision_is_that_of_one_command(precision, told):
    with Comparison(precision=precision).prepared():
        assert provenance.numerics()["default_matmul_precision"] == told
        named = (told or "default").upper()
        assert f"[{named}, {named}]" in jax.jit(jnp.dot).lower(jnp.ones(2), jnp.ones(2)).as_text()
    assert provenance.numerics()["default_matmul_precision"] is None


def test_a_file_counts_by_its_content_and_what_is_none_is_told(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a", "b", "absent", "pipe")]
    paths[0].write_bytes(b"abc")
    paths[1].write_bytes(b"abc")
    # It would never end.
    os.mkfifo(paths[3])
    monkeypatch.setattr(Command, "inputs", lambda self: paths)
    assert list(Command().identity("it")["inputs"].items()) == [
        # As the standard of SHA-256 has it.
        (str(paths[0]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (str(paths[1]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (str(paths[2]), "No such file or directory"),
        (str(paths[3]), "no regular file"),
    ]


MADE = {
    "experiment": "it",
    "options": {"seeds": 3, "rates": [0.1]},
    "inputs": {"a.png": "1"},
    "versions": {"jax": "1"},
    "numerics": {"enable_x64": False},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"experiment": "other"}, "of other"),
        ({"experiment": None}, "of something else"),
        ({"options": {"rates": [0.1]}}, "with seeds None, not 3"),
        # What this version does not know is no difference.
        ({"options": {**MADE["options"], "more": 1}}, ""),
        ({"options": {"seeds": 3, "rates": [0.1, 0.2]}}, "with rates [0.1, 0.2], not [0.1]"),
        ({"inputs": {"a.png": "2"}}, "of another a.png than is there now"),
        ({"inputs": {}}, "of another a.png than is there now"),
        ({"versions": {"jax": "0"}, "numerics": {}}, "with jax 0, not 1"),
        ({"numerics": {}}, "with enable_x64 None, not False"),
    ],
)
def test_the_first_difference_is_told(changes, words):
    assert options.difference({**MADE, **changes}, MADE) == words


def test_only_options_may_be_free():
    other = {**MADE, "options": {"seeds": 5, "rates": [0.1]}}
    assert options.difference(other, MADE) == "with seeds 5, not 3"
    assert options.difference(other, MADE, free=("seeds",)) == ""
    assert options.difference({**MADE, "versions": {"jax": "0"}}, MADE, free=("jax",)) == "with jax 0, not 1"


def added(made, wanted):
    """The images and the inputs of a command that adds to those of another."""
    made, wanted = ({**MADE, "options": {"images": list(files)}, "inputs": files} for files in (made, wanted))
    both = options.joined(made, wanted, {"images": []})
    assert both["options"]["images"] == list(both["inputs"])
    return both["inputs"]


def test_what_is_added_comes_behind():
    assert list(added({"b.png": "1" * 64}, {"a.png": "2" * 64, "b.png": "1" * 64})) == ["b.png", "a.png"]


def test_a_file_keeps_the_path_under_which_it_was_added_first():
    other = os.path.abspath("a.png")
    assert added({"a.png": "1" * 64}, {other: "2" * 64, "x/../b.png": "3" * 64}) == {
        "a.png": "2" * 64,
        "x/../b.png": "3" * 64,
    }


def test_what_cannot_be_read_any_more_keeps_its_digest():
    gone = "No such file or directory"
    assert added({"a.png": "1" * 64}, {"a.png": gone, "b.png": gone}) == {"a.png": "1" * 64, "b.png": gone}

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import segjax
from experiments.lab import names


def test_architectures_predict_one_logit_per_pixel():
    image = jnp.zeros((1, 16, 16, 1))
    for model in names.ARCHITECTURES.values():
        shaped = jax.eval_shape(lambda model=model: segjax.predict(model, model.init(jax.random.key(0), image), image))
        assert shaped.shape == image.shape
    assert [name for name, model in names.ARCHITECTURES.items() if model.batch_statistics] == ["notebook"]


@pytest.mark.parametrize(
    ("number", "words"), [(1e-3, "0.001"), (1e-5, "1e-05"), (1.0, "1"), (0.1234567, "0.1234567"), (1 / 3, repr(1 / 3))]
)
def test_a_number_is_written_as_people_do_and_is_no_other(number, words):
    assert names.exact(number) == words
    assert float(words) == number


@given(st.floats(allow_nan=False))
def test_no_two_numbers_are_written_alike(number):
    assert float(names.exact(number)) == number


@given(st.text(max_size=40), st.integers(8, 30))
def test_a_shortened_name_fits_and_keeps_its_ends(text, width):
    short = names.shortened(text, width)
    assert len(short) == min(len(text), width)
    assert short == text or (short.startswith(text[:3]) and short.endswith(text[-2:]) and "..." in short)

"""Whatever is typed behind an experiment's name, it works or says in one line what is wrong."""

import dataclasses
import importlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import ROOT, parse

from experiments.lab import experiment, store
from experiments.lab.options import flag
from experiments.lab.stops import UsageError

WORDS = [
    "0",
    "1",
    "-1",
    "2",
    "1e-3",
    "nan",
    "inf",
    "1e999",
    "99999999999999999999",
    "",
    " ",
    "None",
    "True",
    "adam",
    "é",
    "--",
    "-x",
]
WORDS += ["optax:lion", "optax:lion=1e-3", "notebook", "quick", "/proc/nowhere", "a b", "\n"]


class Claimed(BaseException):
    """The options were good: from here on it would be work."""


@pytest.mark.parametrize("name", list(experiment.questions(ROOT / "experiments")))
@given(data=st.data())
@settings(suppress_health_check=list(HealthCheck), max_examples=40)
def test_command_lines_work_or_are_one_line(name, data):
    script = importlib.import_module(f"experiments.{name}")
    flags = [flag(field.name) for field in dataclasses.fields(script.Options)]
    option = st.tuples(
        st.sampled_from([*flags, "--no-overwrite", "--what"]), st.lists(st.sampled_from(WORDS), max_size=2)
    )
    arguments = [word for option, words in data.draw(st.lists(option, max_size=3)) for word in (option, *words)]

    def claim(*_, **__):
        raise Claimed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "claim", claim)
        # --deterministic adds to them.
        patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
        said = "it claims its folder"
        try:
            experiment.run(script, parse(script, *arguments))
        except (UsageError, Claimed) as end:
            said = str(end) if isinstance(end, UsageError) else said
    assert said
    assert "\n" not in said

"""The API reference is whole, and its check finds what is missing."""

import html
import re
import shutil

import pytest

pytest.importorskip("pdoc")

from docs.reference import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def modules():
    return build.read()


@pytest.fixture(scope="module")
def written(modules, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "api"
    build.write(folder, modules)
    return folder


def text_of(page):
    """The text of a page without its sources and its tags."""
    text = re.sub(r'<div class="pdoc-code codehilite">.*?</div>', "", page.read_text(), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def test_the_pages_are_whole(modules, written):
    assert list(build.faults(written, modules)) == []
    assert len(modules) == len(list(written.rglob("*.html"))) - 1


def test_a_folder_of_something_else_is_left_alone(modules, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="holds files that are no reference"):
        build.write(tmp_path, modules)
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_types_and_constants_are_shown_as_they_are_written(written):
    page = text_of(written / "segjax" / "training.html")
    assert re.search(r"optimizer:\s*segjax\.optimizers\.Optimizer\s*=", page)
    assert "opt_state: optax.OptState" in page
    assert "A run so far: its state, and the history of every step up to it." in page
    assert re.search(r"'adam':\s*segjax\.optimizers\.adam", text_of(written / "segjax.html"))
    for path in written.rglob("*.html"):
        assert not re.search("Alias for field number|Create new instance of|jaxlib|descriptor", text_of(path)), path


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('id="make_fit"', 'id="other"', "segjax.training.make_fit has no place in"),
        ("</main>", '<img src="https://example.org/a.png"></main>', "https://example.org/a.png would be fetched"),
        ("</main>", '<a href="sweeps.html#nothing">x</a></main>', "the link sweeps.html#nothing leads nowhere"),
        ("</main>", "<p>Args: key</p></main>", "'Args' in a docstring is not understood"),
        ("</main>", '<h6 id="names">Names:</h6></main>', "'Names' in a docstring is not understood"),
    ],
)
def test_a_fault_is_found(modules, written, tmp_path, old, new, fault):
    folder = shutil.copytree(written, tmp_path / "api")
    page = folder / "segjax" / "training.html"
    assert old in page.read_text()
    page.write_text(page.read_text().replace(old, new, 1))
    assert any(fault in line for line in build.faults(folder, modules))


def test_a_missing_docstring_is_found(modules, written, monkeypatch):
    monkeypatch.setattr(modules["segjax.losses"].members["dice"], "docstring", "")
    assert "segjax.losses.dice has no docstring" in list(build.faults(written, modules))

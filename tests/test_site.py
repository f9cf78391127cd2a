"""The site of the documentation, of a small project with faults; `make docs` builds the real one, without a warning."""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("autoapi")

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
PROJECT = {
    "README.md": """# Small\n
[There](docs/start.md#one-section), [no page](docs/gone.md), [no section](docs/start.md#gone).\n
`segjax.sizes.Size`, `segjax.sizes.gone`, `sizes.py`, $\\frac{1}{2}$, <img src="docs/start.png" alt="gone">\n""",
    "CHANGELOG.md": "# Changelog\n\n`segjax.sizes.past`\n",
    "docs/start.md": "# Start\n\n## One section\n",
    "segjax/__init__.py": '"""Sizes."""\nfrom segjax.sizes import SIZES\n__all__ = ["SIZES"]\n',
    "segjax/sizes.py": '''"""Sizes, as docs/start.md has them."""
from typing import NamedTuple

class Size(NamedTuple):
    """A size, such as those of `SIZES`.

    Attributes:
        width, height: in pixels,
            at least 1.
        name: what **it is called.
    """

    width: int
    height: int
    name: str = "square"

    def __call__(self, **factors):
        return self

# (**names) -> size,
# by name.
SIZES = dict(
    square=Size(1, 1),
)
_HIDDEN = 1
''',
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The folder of the site, and the warnings."""
    root = tmp_path_factory.mktemp("project")
    for name, text in PROJECT.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    for name in ("conf.py", "site.css"):
        shutil.copy(DOCS / name, root / "docs")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-c", "docs", ".", "build/docs"]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert process.returncode == 1
    return root / "build" / "docs", process.stderr


def shown(page):
    """The text of a page without its tags, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page.read_text())).split())


@pytest.mark.parametrize(
    "fault",
    [
        r"README.md:3: WARNING: .*docs/gone.md",
        r"README.md:3: WARNING: .*'gone'",
        r"README.md:5: WARNING: .* not found: segjax.sizes.gone",
        r"README.md:5: WARNING: image file not readable: docs/start.png",
        r"sizes/index.rst:\d+: WARNING: Inline strong start-string without end-string",
        r"WARNING: toctree contains reference to nonexisting document 'docs/lab'",
    ],
)
def test_a_fault_is_a_warning(build, fault):
    assert re.search(fault, build[1])


def test_nothing_else_is_a_warning(build):
    assert not re.search("segjax.sizes.past|sizes.py|one-section|docs/start.md:", build[1])


def test_a_constant_has_its_comment_and_its_source(build):
    for page in ("docs/api/segjax/index.html", "docs/api/segjax/sizes/index.html"):
        assert "SIZES¶ (**names) -> size, by name. SIZES = dict( square=Size(1, 1), )" in shown(build[0] / page)
        assert "_HIDDEN" not in shown(build[0] / page)


def test_a_field_has_its_type_and_its_description(build):
    text = shown(build[0] / "docs/api/segjax/sizes/index.html")
    assert "width: int¶ in pixels, at least 1. height: int¶ in pixels, at least 1. name: str = 'square'" in text
    assert "__call__(**factors)" in text
    assert not re.search("Call self as a function|Alias for field|Attributes:", text)


def test_names_and_pages_are_links(build):
    page = (build[0] / "README.html").read_text()
    assert 'href="docs/api/segjax/sizes/index.html#segjax.sizes.Size"' in page
    assert 'href="docs/start.html#one-section"' in page
    assert 'href="../../../start.html"' in (build[0] / "docs/api/segjax/sizes/index.html").read_text()


def test_a_formula_is_mathml(build):
    assert "<mfrac>" in (build[0] / "README.html").read_text()


def test_the_pages_load_nothing_from_a_network(build):
    for page in build[0].rglob("*.html"):
        tags = re.findall(r"<(?!a\b)[^>]*\s(?:src|href)=\"([^\"]*)\"", page.read_text())
        assert len(tags) > 5
        assert not [address for address in tags if re.match(r"(\w+:)?//", address)]
    for style in build[0].rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(\w+:)?//", style.read_text())

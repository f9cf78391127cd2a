"""One site of the README, the pages of docs/ with the lab, and the API: `make docs`, settings of Sphinx.

The checkout is the source folder, so a relative link leads to the same page on the site and in the checkout. AutoAPI
reads the library's types and values as the source has them, without importing it. A docstring is reStructuredText with
Google's sections; in it, one pair of backticks makes a link where the name is known, and code elsewhere.
"""

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.application import Sphinx

project = html_title = "segjax"
extensions = ["myst_nb", "autoapi.extension", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "README"
include_patterns = ["*.md", "native/README.md", "docs/*.md", "docs/lab.ipynb", "docs/api/**"]
# The second would be a page of links to the one page that PAGES links already.
exclude_patterns = [".*", "docs/api/index.rst", "build", "results"]
# Names of other projects are code: their pages would have to be fetched.
nitpicky, nitpick_ignore_regex = True, [("py:.*", r"(?!segjax\.[a-zA-Z]).*")]
default_role, highlight_language = "py:obj", "none"

autoapi_dirs, autoapi_root, autoapi_add_toctree_entry = ["segjax"], "docs/api", False
autoapi_options = ["members", "undoc-members", "imported-members", "show-module-summary"]
myst_enable_extensions, myst_heading_anchors = ["dollarmath", "html_image"], 4
# `make lab` executes the lab.
nb_execution_mode = "off"

html_theme, html_css_files, html_static_path = "furo", ["site.css"], ["site.css"]
html_show_copyright = html_show_sourcelink = html_copy_source = False
# MathML needs no script and no fonts.
html_math_renderer = "mathml"

PAGES = """
```{toctree}
:hidden:
:caption: First
docs/start
docs/lab
docs/glossary
```
```{toctree}
:hidden:
:caption: Use it
docs/library
docs/your-optimizer
docs/real-pictures
docs/cluster
docs/gpu
API <docs/api/segjax/index>
```
```{toctree}
:hidden:
:caption: Measured
The notebook revisited <docs/notebook-revisited>
docs/fair-comparison
docs/rate-free
docs/records
docs/rounding
All of optax <docs/optimizers>
docs/best-possible
docs/experiments
docs/performance
```
```{toctree}
:hidden:
:caption: The project
CONTRIBUTING
CHANGELOG
The convolution in C++ <native/README>
```
"""


def add_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Ends the first page with the list of all pages, which GitHub would show as code."""
    if name == root_doc:
        source[0] += PAGES


def complete(app: Sphinx, kind: str, name: str, member: Any, skip: bool, options: list[str]) -> bool:
    """Shows a constant as the source has it, below the comment above it, and a class's Attributes with their types."""
    if kind == "data" and not skip:
        module, _, constant = member.obj.get("original_path", name).rpartition(".")
        source = Path(app.srcdir, *module.split(".")).with_suffix(".py").read_text()
        pattern = rf"((?:^# .*\n)*)^({constant}\b.* = .*(?:\n[ )].*)*)"
        ((comment, code),) = re.findall(pattern, source, re.MULTILINE)
        comment = re.sub("^# ", "", comment, flags=re.MULTILINE).replace("**", r"\**")
        member.docstring = f"{comment}\n.. code-block:: python\n\n{textwrap.indent(code, '   ')}\n"
        member.annotation = member.value = None
    elif kind == "class":
        # As Napoleon leaves them.
        fields = r"^\.\. attribute:: (.+)\n\n((?: {3}.*\n?)+)\n*"
        described = {
            each: inspect.cleandoc(text)
            for names, text in re.findall(fields, member.docstring, re.MULTILINE)
            for each in names.split(", ")
        }
        member.docstring = re.sub(fields, "", member.docstring, flags=re.MULTILINE)
        for child in member.children:
            child.docstring = child.docstring or described.get(child.name, "")
    return skip and not name.endswith(".__call__")


def link_pages(app: Sphinx, kind: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Makes links of the pages that a docstring names."""
    lines[:] = [re.sub(r"docs/([\w-]+)\.md", r":doc:`docs/\1.md </docs/\1>`", line) for line in lines]


def link_names(app: Sphinx, document: nodes.document) -> None:
    """Makes links of the names of the library that a page sets as code."""
    # The changelog has names of the past.
    for code in list(document.findall(nodes.literal)) if app.env.docname != "CHANGELOG" else ():
        name, is_link = code.astext(), isinstance(code.parent, nodes.reference | addnodes.pending_xref)
        if re.fullmatch(r"segjax(\.\w+)+", name) and not is_link:
            link = {"refdomain": "py", "reftype": "obj", "reftarget": name, "refdoc": app.env.docname}
            code.replace_self(addnodes.pending_xref("", code.deepcopy(), **link))


def as_mathml(writer: Any, node: nodes.Node) -> None:
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    writer.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (as_mathml, None), (as_mathml, None))
    app.connect("source-read", add_pages)
    app.connect("autodoc-process-docstring", link_pages)
    app.connect("doctree-read", link_names)
    app.connect("autoapi-skip-member", complete)

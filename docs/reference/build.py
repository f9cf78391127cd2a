"""Writes the API reference as one static folder: `python -m docs.reference.build FOLDER`, which is `make docs`.

pdoc makes the pages of the docstrings. Before it does, what it knows of the source is set right: types and constants
are shown as they are written (pdoc shows what they evaluate to, for an ArrayLike a line of types), a comment above a
constant is its description, and what NamedTuple and flax add to a class by themselves is left out. Then the pages are
checked, and each fault is a line: a public name that is missing or has no docstring, a part of a docstring that was not
understood, a link that leads nowhere, a file that a browser would fetch. A warning of pdoc ends the command.
"""

import ast
import pkgutil
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import flax.linen as nn
from pdoc import render
from pdoc.doc import Class, Function, Module, Variable

import segjax

Modules = Mapping[str, Module]
# By this file a folder is known as one of ours.
_INDEX = "search.js"
# What flax gives every network beside the fields that it declares.
_OF_FLAX = ("name", "parent", "scope")
# "Args:" at the start of a paragraph is a part of a docstring that pdoc took for text; "Examples:" over a part is text
# that it took for one, whose code would be set as words.
_NOT_UNDERSTOOD = re.compile(
    r"<p>(Args|Returns|Raises|Attributes):|<h6[^>]*>((?!Arguments|Returns|Raises|Attributes).*):"
)


class _Written(str):
    """A type that a signature prints as it is."""

    __repr__ = str.__str__


class _Qualified(ast.NodeTransformer):
    """Names of segjax in an expression of a module -> their full names, of which pdoc makes links."""

    def __init__(self, modules: Modules, module: ModuleType):
        self.modules, self.module = modules, module

    def visit_Name(self, node: ast.Name) -> ast.AST:
        value = getattr(self.module, node.id, None)
        if isinstance(value, ModuleType):
            return ast.Name(value.__name__) if value.__name__ in self.modules else node
        home = _home(self.modules, self.module, node.id)
        return ast.Name(f"{home.fullname}.{node.id}") if home else node

    def text(self, node: ast.expr) -> _Written:
        return _Written(ast.unparse(self.visit(node)))


def _home(modules: Modules, module: ModuleType, name: str) -> Module | None:
    """The module that defines what `module` knows by this name, None where it is none of segjax."""
    defining = [it for it in modules.values() if it.fullname != "segjax" and name in it.members]
    return next((it for it in defining if getattr(it.obj, name) is getattr(module, name, it)), None)


def read() -> Modules:
    """Every public module, as pdoc is to show it."""
    names = [f"segjax.{it.name}" for it in pkgutil.iter_modules(segjax.__path__) if not it.name.startswith("_")]
    modules = {name: Module.from_name(name) for name in ["segjax", *names]}
    # pdoc lists the modules that `__all__` names, and it names none.
    vars(modules["segjax"])["submodules"] = [modules[name] for name in names]
    for module in modules.values():
        for doc in module.members.values():
            if isinstance(doc, Variable) and (home := _home(modules, module.obj, doc.name)):
                _as_written(doc, home, modules)
            elif isinstance(doc, Class):
                with warnings.catch_warnings():
                    # pdoc evaluates the fields' types, and optax's of a state has a name that only optax knows.
                    warnings.filterwarnings("ignore", "Error parsing type annotation .*ArrayTree")
                    _without_additions(doc, modules)
            elif isinstance(doc, Function):
                _with_types_as_written(doc, modules)
    return modules


def _as_written(doc: Variable, home: Module, modules: Modules) -> None:
    """A constant: its type, its value, and the comment above it."""
    lines = home.source.splitlines()
    for node in ast.parse(home.source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        if ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target) != doc.name:
            continue
        qualified = _Qualified(modules, home.obj)
        doc.default_value_str = qualified.text(node.value)
        if isinstance(node, ast.AnnAssign):
            doc.annotation_str = ": " + qualified.text(node.annotation)
        first = node.lineno - 1
        while lines[first - 1].startswith("# "):
            first -= 1
        doc.docstring = doc.docstring or " ".join(line[2:] for line in lines[first : node.lineno - 1])


def _without_additions(doc: Class, modules: Modules) -> None:
    """A class: its fields with their types, its methods."""
    named_tuple = issubclass(doc.obj, tuple)
    doc.bases = [base for base in doc.bases if not base[1].startswith("_")]
    doc.inherited_members = {base: its for base, its in doc.inherited_members.items() if not base[1].startswith("_")}
    (node,) = ast.parse(doc.source).body
    assert isinstance(node, ast.ClassDef)
    fields = {ast.unparse(it.target): it for it in node.body if isinstance(it, ast.AnnAssign)}
    qualified = _Qualified(modules, sys.modules[doc.obj.__module__])
    for member in doc.own_members:
        if isinstance(member, Variable) and member.name in fields:
            field = fields[member.name]
            member.annotation_str = ": " + qualified.text(field.annotation)
            member.default_value_str = qualified.text(field.value) if field.value else ""
            # "Alias for field number 0".
            member.docstring = "" if named_tuple else member.docstring
        elif member.name == "__init__":
            # The fields say it again.
            member.docstring = "@private"
        elif isinstance(member, Variable) and issubclass(doc.obj, nn.Module):
            # flax wraps properties: what would stand here is the wrapper's docstring.
            member.docstring = "@private" if member.name in _OF_FLAX else ""
        elif isinstance(member, Function) and (member.name == "__call__" or not member.name.startswith("_")):
            member.docstring += "@public"
            _with_types_as_written(member, modules)


def _with_types_as_written(doc: Function, modules: Modules) -> None:
    (node,) = ast.parse(textwrap.dedent(doc.source)).body
    assert isinstance(node, ast.FunctionDef)
    qualified = _Qualified(modules, sys.modules[doc.obj.__module__])
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    types = {it.arg: qualified.text(it.annotation) for it in every if it and it.annotation}
    parameters = [it.replace(annotation=types.get(it.name, it.annotation)) for it in doc.signature.parameters.values()]
    returned = qualified.text(node.returns) if node.returns else doc.signature.return_annotation
    doc.signature = doc.signature.replace(parameters=parameters, return_annotation=returned)


def write(folder: Path, modules: Modules) -> None:
    """The pages, and the index that the search box reads; pages that were in the folder before go.

    Raises:
        ValueError: if the folder holds anything else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / _INDEX).exists():
        raise ValueError(f"{folder} holds files that are no reference: name another folder")
    render.configure(docformat="google", template_directory=Path(__file__).parent)
    pages = {f"{name.replace('.', '/')}.html": render.html_module(module, modules) for name, module in modules.items()}
    pages |= {"index.html": render.html_index(modules), _INDEX: render.search_index(modules)}
    shutil.rmtree(folder, ignore_errors=True)
    for name, page in pages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(page)


class _Page(HTMLParser):
    """The places of a page, its links, and the files that a browser loads with it."""

    def __init__(self, path: Path):
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.places |= {given[name] for name in ("id",) if name in given}
        addresses = {given[name] for name in ("href", "src") if name in given}
        if tag == "a":
            self.links |= addresses
        else:
            self.loaded |= addresses


def faults(folder: Path, modules: Modules) -> Iterator[str]:
    """What is wrong with the pages, a line each."""
    pages = {path: _Page(path) for path in folder.rglob("*.html")}
    for name, module in modules.items():
        path = folder / f"{name.replace('.', '/')}.html"
        public = segjax.__all__ if name == "segjax" else [it for it in module.members if not it.startswith("_")]
        for member in public:
            doc = module.members.get(member)
            if doc is None and f"{name}.{member}" in modules:
                continue
            if doc is None or (member not in pages[path].places and not getattr(doc, "is_typevar", False)):
                yield f"{name}.{member} has no place in {path}"
            elif doc.kind != "variable" and not doc.docstring:
                yield f"{name}.{member} has no docstring"
    for path, page in pages.items():
        for text, part in _NOT_UNDERSTOOD.findall(path.read_text()):
            yield f"{path}: {(text or part)!r} in a docstring is not understood"
        yield from (f"{path}: {it:.60} would be fetched" for it in page.loaded if not it.startswith("data:"))
        for link in page.links:
            target, _, place = link.partition("#")
            other = (path.parent / target).resolve() if target else path.resolve()
            if "://" not in link and (other not in pages or (place and place not in pages[other].places)):
                yield f"{path}: the link {link} leads nowhere"


def main(folder: Path) -> int:
    warnings.simplefilter("error")
    modules = read()
    write(folder, modules)
    found = sorted(faults(folder.resolve(), modules))
    print(*found, f"{folder}/index.html: {len(modules)} modules, {len(found)} faults", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m docs.reference.build FOLDER")
    sys.exit(main(Path(sys.argv[1])))

"""Executes docs/lab.ipynb from top to bottom; `python -m tests.run_lab` (`make lab`) writes the outputs into it."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAB = ROOT / "docs" / "lab.ipynb"


def execute(book: Any, environment: Mapping[str, str]) -> Any:
    """The notebook with the outputs of a run in the folder of the checkout; raises if a cell fails."""
    # Imported here, since most tests do not need it.
    from nbclient import NotebookClient

    client = NotebookClient(
        book,
        timeout=600,
        kernel_name="python3",
        # No times in the file, and one text per cell: the same run writes the same file.
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT)}},
    )
    return asyncio.run(client.async_execute(env=dict(environment)))


def main() -> None:
    import nbformat

    # As users compile, whatever flags the shell has.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    book = execute(nbformat.read(LAB, as_version=4), environment)
    # The version of the Python that ran it would change with each machine.
    book.metadata["language_info"] = {"name": "python"}
    nbformat.write(book, LAB)


if __name__ == "__main__":
    main()

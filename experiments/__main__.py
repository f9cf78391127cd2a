"""`python -m experiments` lists the questions."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.lab.cli import safe_stream
from experiments.lab.question import questions


def main() -> None:
    sys.stdout = safe_stream(sys.stdout)
    table = Table("python -m experiments.", "question", box=None, pad_edge=False)
    for name, question in questions(Path(__file__).parent).items():
        table.add_row(name, question)
    Console().print(table, highlight=False)


if __name__ == "__main__":
    main()

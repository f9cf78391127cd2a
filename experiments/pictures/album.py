"""The segmented pictures in a folder of results, one note for each: pictures can be added later, or by another command.

A picture that has lost a file no longer counts, and others can have its name.
"""

import hashlib
import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.lab import stops
from experiments.lab.folder import Folder
from experiments.pictures.photographs import Source

# Bytes that file systems allow for a name, minus what is added to a picture's name while its longest file is written.
_MAX_NAME_BYTES = 255 - len("..tmp") - len("-probability.png")
# Prefix of the names of the notes.
_NOTE = "picture-"


class Segmented(NamedTuple):
    """A segmented picture, as its note holds it.

    Attributes:
        number: orders the pictures in time.
        digest: SHA-256 of the picture's file.
        name: prefix of the names of its files.
        row: in the table, runs.csv and results.json.
        previews: for the report: `picture` and `overlay` (height, width, 3) in 8 bits, `probability` (height, width).
            Empty if the report has no room.
        warnings: sentences.
    """

    number: int
    digest: str
    name: str
    row: Mapping[str, Any]
    previews: Mapping[str, np.ndarray]
    warnings: Sequence[str] = ()


def note_of(source: Source) -> str:
    """The name of a picture's note: the same for all paths that lead to its file."""
    chosen = f"\0{source.page}\0{source.channel}" if source.page or source.channel else ""
    content = os.fsencode(os.path.realpath(source.path) + chosen)
    return _NOTE + hashlib.sha256(content).hexdigest()[:16]


def label_of(source: Source, taken: Collection[str]) -> str:
    """The first label whose prefix is not taken: the file without its ending; with it; and then with numbers."""
    chosen = "" if source.page is None else f"-page{source.page:03}"
    chosen += "" if source.channel is None else f"-channel{source.channel}"
    name = source.path.name + chosen
    labels = itertools.chain((source.path.stem + chosen, name), (f"{name}-{number}" for number in itertools.count(2)))
    return next(label for label in labels if file_prefix(label) not in taken)


def read(folder: Folder) -> dict[str, Segmented]:
    """The pictures by the names of their notes, the oldest first."""
    pictures = {}
    for name in folder.notes(_NOTE):
        if note := folder.read_note(name):
            arrays, metadata = note
            pictures[name] = Segmented(previews=arrays, **{**metadata, "row": dict(metadata["row"])})
    return dict(sorted(pictures.items(), key=lambda item: item[1].number))


def complete(folder: Folder, pictures: Mapping[str, Segmented], endings: Sequence[str]) -> dict[str, Segmented]:
    """The pictures whose files all exist. If two pictures have one name, the files are the later one's."""
    last = {picture.name: note for note, picture in pictures.items()}
    return {
        note: picture
        for note, picture in pictures.items()
        if last[picture.name] == note and all((folder.path / (picture.name + ending)).exists() for ending in endings)
    }


def write(folder: Folder, note: str, picture: Segmented, contents: Mapping[str, bytes]) -> None:
    """Writes the files of a picture, ending -> content, and its note; a signal in between is deferred."""
    metadata = picture._asdict()
    # A file of safetensors sorts the keys of its metadata, but not a list.
    arrays, metadata["row"] = metadata.pop("previews"), list(picture.row.items())
    with stops.deferred():
        for ending, content in contents.items():
            folder.write(picture.name + ending, content)
        folder.write_note(note, arrays, metadata)


def file_prefix(label: str) -> str:
    """The prefix of the names of a picture's files: its label, cut if it is too long."""
    encoded = os.fsencode(label)
    if len(encoded) <= _MAX_NAME_BYTES:
        return label
    # Half a character at the cut is dropped; the digest distinguishes labels that differ beyond it.
    return f"{encoded[: _MAX_NAME_BYTES - 9].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"

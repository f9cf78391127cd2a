"""The names of segmented pictures and of their notes; test_segment_image has what becomes of both in a folder."""

import itertools
import os
from pathlib import Path

from experiments.pictures import album
from experiments.pictures.photographs import Source

WALL = Source(Path("a/wall.tif"))


def test_a_label_is_the_first_that_no_other_picture_has():
    taken = []
    for _ in range(4):
        taken.append(album.label_of(WALL, taken))
    assert taken == ["wall", "wall.tif", "wall.tif-2", "wall.tif-3"]
    assert album.label_of(WALL._replace(page=3, channel=2), taken) == "wall-page003-channel2"


def test_a_long_label_is_cut_and_stays_different():
    labels = ["a" * 300, "a" * 299 + "b", "a" + "\u00e9" * 150]
    prefixes = list(map(album.file_prefix, labels))
    assert len(set(prefixes)) == 3
    assert all(len(os.fsencode(f".{prefix}-probability.png.tmp")) <= 255 for prefix in prefixes)
    assert album.file_prefix("wall") == "wall"


def test_every_path_to_a_picture_leads_to_one_note(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wall.tif").touch()
    Path("link.tif").symlink_to("wall.tif")
    wall = Source(Path("wall.tif"))
    assert (
        album.note_of(wall) == album.note_of(Source(tmp_path / "wall.tif")) == album.note_of(Source(Path("link.tif")))
    )
    others = [wall, wall._replace(page=1), wall._replace(channel=1), wall._replace(page=2), Source(Path("other.tif"))]
    assert all(album.note_of(one) != album.note_of(two) for one, two in itertools.combinations(others, 2))

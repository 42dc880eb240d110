import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from symconv.data import Source
from symconv.data.folder import read_picture
from symconv.errors import StructureError
from symconv.extras import MissingExtraError, needs


def picture(path, seed=0, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    for index in range(24):
        picture(tmp_path / "set" / ("cats" if index % 2 else "dogs") / f"{index}.png", index)
    return tmp_path / "set"


def test_a_folder_with_one_sub_folder_a_class(folder):
    found = Source(str(folder)).load()
    assert found.classes == ("cats", "dogs")
    assert found.train.pictures.shape == (12, 1, 32, 32)
    assert (found.reach, found.full_frame) == (8, False)
    assert found.train.pictures[:, :, :8].abs().max() == 0, "an empty canvas around the picture"


def test_full_frame_and_colour(folder):
    found = Source(str(folder), canvas=48, full_frame=True, colour=True).load()
    assert found.train.pictures.shape == (12, 3, 48, 48)
    assert (found.train.pictures[:, :, :8] != 0).any()
    moved, still = found.moved.pictures, found.test.pictures
    assert any((m != s).any() for m, s in zip(moved, still, strict=True))


def test_grey_16_bit_and_transparent_pictures_are_read(folder):
    wide = (np.arange(32 * 32).reshape(32, 32) * 64).astype(np.uint16)
    Image.fromarray(wide).save(folder / "cats" / "wide.png")
    picture(folder / "cats" / "clear.png", mode="RGBA")
    picture(folder / "dogs" / "palette.gif", mode="P")
    assert sum(map(len, _splits(Source(str(folder)).load()))) == 27


@pytest.mark.parametrize("colour", [True, False])
def test_what_is_transparent_shows_white(colour, tmp_path):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 128), (0, 0, 8, 4))
    clear.save(tmp_path / "clear.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    found = read_picture(tmp_path / "clear.png", 8, colour)
    assert (found[:, 5:] == 1).all()
    if colour:
        assert found[:, 1, 1] == pytest.approx([1, 0.5, 0.5], abs=0.01)
    assert (read_picture(tmp_path / "palette.png", 8, colour) == 1).all()


def test_pictures_of_fractions_are_refused_with_the_reason(folder):
    Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "cats" / "float.tif")
    with pytest.raises(OSError, match="save it with 8 or 16 bits"):
        read_picture(folder / "cats" / "float.tif", 8, False)
    with pytest.warns(UserWarning, match=r"skipped 1 of 25 .*float\.tif.*8 or 16 bits"):
        Source(str(folder)).load()


def _splits(found):
    return found.train, found.validation, found.test


def test_unreadable_and_truncated_pictures_are_skipped_and_named(folder):
    whole = (folder / "cats" / "1.png").read_bytes()
    (folder / "cats" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dogs" / "text.jpg").write_text("no picture")
    with pytest.warns(UserWarning, match=r"skipped 2 of 26 pictures .*cut\.png.*text\.jpg") as seen:
        found = Source(str(folder)).load()
    assert len(seen) == 1
    assert sum(map(len, _splits(found))) == 24


def test_whole_pictures_cause_no_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Source(str(folder)).load()
    assert sum(map(len, _splits(found))) == 24


def test_other_files_and_hidden_folders_are_no_pictures(folder):
    (folder / "cats" / "notes.txt").write_text("notes")
    picture(folder / ".cache" / "0.png")
    assert Source(str(folder)).load().classes == ("cats", "dogs")


def test_all_unreadable(tmp_path):
    for index in range(24):
        path = tmp_path / "set" / ("a" if index % 2 else "b") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no picture")
    with (
        pytest.warns(UserWarning, match="skipped 24 of 24"),
        pytest.raises(StructureError, match="24 unreadable files"),
    ):
        Source(str(tmp_path / "set")).load()


def test_no_folder_no_pictures_one_class_too_few(tmp_path):
    with pytest.raises(StructureError, match="which is no folder"):
        Source(str(tmp_path / "absent")).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StructureError, match="no picture below"):
        Source(str(tmp_path / "empty")).load()
    for index in range(12):
        picture(tmp_path / "one" / "only" / f"{index}.png", index)
    with pytest.raises(StructureError, match="at least two classes of pictures, got 1"):
        Source(str(tmp_path / "one")).load()
    for index in range(3):
        picture(tmp_path / "one" / "few" / f"{index}.png", index)
    with pytest.raises(StructureError, match="got 3 of class 'few'"):
        Source(str(tmp_path / "one")).load()


def test_a_limit_reads_no_more_files(folder):
    (folder / "cats" / "zz-broken.png").write_text("no picture")
    for index in range(60):
        picture(folder / "dogs" / f"more{index}.png", index)
        picture(folder / "cats" / f"more{index}.png", index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sum(map(len, _splits(Source(str(folder), limit=40).load()))) in (39, 40)


def test_a_missing_extra_is_named_with_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"needs sklearn: pip install 'symconv\[demo\]'"):
        Source("digits").load()


def test_a_module_that_is_there_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_here.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        needs("broken_here", "demo", "this test")

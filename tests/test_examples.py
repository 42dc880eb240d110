"""Every example runs as a reader would run it, and leaves its picture."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

QUICKLY = {
    "volumes": ["--steps", "3"],
    "mixed_sizes": ["--steps", "3", "--seeds", "1"],
    "shift_exact": ["--steps", "3"],
    "near_and_far": ["--steps", "3", "--seeds", "1", "--tested", "8"],
}  # as a reader would run it, but for what takes long
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_examples():
    assert {"edges", "mixed_sizes", "near_and_far", "shift_exact", "timeline", "volumes"} <= {
        path.stem for path in EXAMPLES
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_the_example_leaves_a_picture(path, tmp_path):
    out = tmp_path / "pictures"
    program = [
        sys.executable,
        "-W",
        "error",
        str(path),
        "--out",
        str(out),
        *QUICKLY.get(path.stem, []),
    ]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{out / path.stem}.png" in done.stdout
    pixels = imread(out / f"{path.stem}.png")
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20, "an empty picture"


def failing(name, replaced, by, folder, monkeypatch):
    """Run an example's main with one of its functions exchanged."""
    example = loaded(next(path for path in EXAMPLES if path.stem == name))
    monkeypatch.setattr(sys, "argv", [name, "--out", str(folder), *QUICKLY.get(name, [])])
    monkeypatch.setattr(example, replaced, by(example))
    with pytest.raises(SystemExit) as stopped:
        example.main()
    assert not list(folder.iterdir())
    return str(stopped.value)


def test_edges_notices_one_wrong_weight(tmp_path, monkeypatch):
    def by(example):
        right = example.sparse_layer

        def wrong(height, width):
            layer = right(height, width)
            layer.weight.data[7, 1] = 2.0
            return layer

        return wrong

    assert "sparse differs" in failing("edges", "sparse_layer", by, tmp_path, monkeypatch)


def test_timeline_notices_a_layer_that_does_not_commute(tmp_path, monkeypatch):
    message = failing(
        "timeline", "convolution", lambda example: example.locally_connected, tmp_path, monkeypatch
    )
    assert "must commute" in message


def test_volumes_notices_scores_that_change_with_the_cube(tmp_path, monkeypatch):
    message = failing(
        "volumes",
        "networks",
        lambda example: lambda build=example.networks: build()[::-1],
        tmp_path,
        monkeypatch,
    )
    assert "must not change with the cube" in message


def test_mixed_sizes_notices_scores_that_depend_on_the_batch(tmp_path, monkeypatch):
    message = failing("mixed_sizes", "mixed", lambda example: example.padded, tmp_path, monkeypatch)
    assert "must not depend on the rest of the batch" in message


def test_shift_exact_notices_strides_that_are_not_exact(tmp_path, monkeypatch):
    def by(example):
        return lambda model: model

    message = failing("shift_exact", "polyphase", by, tmp_path, monkeypatch)
    assert "'polyphase' must not change when shifted" in message


def test_near_and_far_notices_scales_that_do_not_follow(tmp_path, monkeypatch):
    def by(example):
        return lambda copies=12: example.plain(copies * example.SCALES.count)

    message = failing("near_and_far", "scaled", by, tmp_path, monkeypatch)
    assert "scales do not follow the size" in message

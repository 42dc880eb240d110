"""The command `symconv audit`: targets, documents, limits, and what cannot be asked."""

import json
import logging
import os
import re
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from symconv.auditing.target import example, load
from symconv.cli import app
from symconv.errors import StructureError

MODELS = '''
"""Somebody's models."""
print("somebody's code runs")
import torch
from torch import nn

WIDTH = 4
ready = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())

def exact(channels=4):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1, padding_mode="circular"), nn.ReLU(),
        nn.Conv2d(channels, 2, 3, padding=1, padding_mode="circular"))

def strided(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.MaxPool2d(2))

def fixed():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 6 * 6, 4))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.convolve = nn.Conv2d(3, 3, 1)

    def forward(self, picture, words):
        print("forward prints")
        return self.convolve(picture) + self.embed(words).mean((0, 1))[:, None, None]

class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("this forward fails")

class Place:
    inner = Two

def fails():
    raise OSError("no weights here")

def no_model():
    return 3
'''
QUICK = ["--no-equivariance", "--no-sizes", "--no-receptive-field"]


def call(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A directory with somebody's models, as the current one; its name is the module's."""
    name = f"models_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def program(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(model, (torch.randn(1, 3, 8, 8),)), path)
    return path


# what a target gives


def test_a_name_may_be_a_model_a_function_or_a_class(models):
    assert isinstance(load(f"{models}:ready"), nn.Sequential)
    assert load(f"{models}:exact", '{"channels": 6}')[0].out_channels == 6
    assert load(f"{models}:strided", "[5]")[0].out_channels == 5
    assert type(load(f"{models}:Place.inner")).__name__ == "Two"


def test_inputs_of_shapes_and_types():
    assert example("3x4x5", batch=2).shape == (2, 3, 4, 5)
    assert torch.equal(example("7"), example("7"))
    assert not torch.equal(example("7"), example("7", seed=1))
    words = example("9:int64")
    assert words.dtype == torch.int64
    assert set(words.flatten().tolist()) <= {0, 1}
    assert example("3:complex64").is_complex()
    assert example("4:bool").dtype == torch.bool
    with pytest.raises(StructureError, match="positive sizes"):
        example("3x0")


class Nasty:
    """A pickle that leaves a trace where it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.PKL", "m.ckpt", "m.bin"])
def test_a_pickle_is_never_loaded(name, tmp_path):
    trace = tmp_path / "trace"
    torch.save(Nasty(trace), tmp_path / name)
    found = call(tmp_path / name, "--input=3x8x8")
    assert found.exit_code == 2
    assert "weights_only=True" in found.stderr
    assert "runs its code" not in found.stderr  # it does not
    assert not trace.exists()
    torch.load(tmp_path / name, weights_only=False)
    assert trace.exists()  # it would have run


def test_a_pickle_called_a_program_is_not_loaded_either(tmp_path):
    torch.save(Nasty(tmp_path / "trace"), tmp_path / "m.pt2")
    found = call(tmp_path / "m.pt2")
    assert found.exit_code == 2
    assert "holds none" in found.stderr
    assert not (tmp_path / "trace").exists()


def test_pickles_within_a_program_are_read_as_weights_only(program, tmp_path):
    """The example inputs of a program are a pickle, which torch reads without restriction."""
    trace, nasty = tmp_path / "trace", tmp_path / "nasty.pt"
    torch.save((((Nasty(trace),), {})), nasty)
    changed = tmp_path / "changed.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            data = nasty.read_bytes() if "sample_inputs" in name else old.read(name)
            new.writestr(zipfile.ZipInfo(name), data)
    found = call(changed, "--input=3x8x8")
    assert found.exit_code == 1
    assert "reading" in found.stderr
    assert not trace.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    logging.disable(logging.WARNING)  # a warning of torch's has a fault of its own
    try:
        torch.export.load(changed)
    finally:
        logging.disable(logging.NOTSET)
    assert trace.exists()  # it would have run


# what is printed


def test_the_tables_on_stdout_and_the_rest_on_stderr(models):
    found = call(f"{models}:Two", "--input=3x8x8", "--input=6:int64", *QUICK)
    assert found.exit_code == 0, found.output
    assert "runs its code" in found.stderr
    for line in ("somebody's code runs", "forward prints"):
        assert line in found.stderr
        assert line not in found.stdout
    assert re.search(r"convolve +Conv2d +3x8x8 +3 ", found.stdout)
    assert max(map(len, found.stdout.splitlines())) <= 80


def test_json_is_one_document(models):
    found = call(f"{models}:strided", "--args=[5]", "--input=3x8x8", "--json")
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout, parse_constant=lambda name: pytest.fail(name))
    assert document["total"]["parameters"] == 5 * (3 * 9 + 1)
    assert document["total"]["macs"] == 64 * 27 * 5
    assert document["receptive_field"]["size"] == [4, 4]
    assert {row["transform"] for row in document["equivariance"]} >= {"shift 1"}
    assert "call" not in document


def test_a_program_brings_its_input(program):
    found = call(program, "--json", *QUICK)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["total"]["macs"] == 36 * 27 * 4
    assert "reading" in found.stderr
    assert "runs its code" not in found.stderr


def test_a_group_is_tested_as_well(models):
    found = call(f"{models}:exact", "--input=3x8x8", "--group=C4", "--json", "--no-sizes")
    assert found.exit_code == 0, found.output
    plain = call(f"{models}:exact", "--input=3x8x8", "--json", "--no-sizes")
    rows = [json.loads(f.stdout)["equivariance"] for f in (found, plain)]
    assert {r["transform"] for r in rows[0]} >= {r["transform"] for r in rows[1] if "shift" in r}
    assert any("turn" in r["transform"] or "C4" in r["transform"] for r in rows[0])


def test_a_transform_to_a_size_that_the_model_does_not_take_leaves_the_others(models):
    found = call(f"{models}:fixed", "--input=3x8x8", "--json")
    assert found.exit_code == 0, found.output
    rows = {r["transform"]: r for r in json.loads(found.stdout)["equivariance"] if not r["layer"]}
    assert rows["shift 1"]["error"] > 1e-3
    assert rows["rescale 0.5"]["error"] is None
    assert "fails on the transformed input" in rows["rescale 0.5"]["note"]


def test_the_type_and_the_batch(models):
    options = ["--input=3x8x8", "--dtype=float64", "--batch=2", "--json", *QUICK]
    document = json.loads(call(f"{models}:exact", *options).stdout)
    assert document["input"] == "2x3x8x8 float64"


def test_limits_for_continuous_integration(models):
    options = ["--input=3x16x16", "--dtype=float64", "--no-sizes"]
    shifts = ["--fail-above", "error=1e-9"]
    sound = call(f"{models}:exact", *options, "--fail-above", "parameters=1000")
    assert sound.exit_code == 0, sound.output
    broken = call(f"{models}:strided", "--args=[4]", *options, *shifts)
    assert broken.exit_code == 1
    assert "shift 1" in broken.stderr
    assert "Traceback" not in broken.output


def test_the_page(models, tmp_path):
    found = call(
        f"{models}:strided", "--args=[4]", "--input=3x16x16", f"--html={tmp_path / 'a.html'}"
    )
    assert found.exit_code == 0, found.output
    assert f"page: {tmp_path / 'a.html'}" in found.stdout
    assert "<svg" in (tmp_path / "a.html").read_text()


def test_as_a_newcomer_calls_it(models, tmp_path):
    """In a process of its own, from the directory of the models."""
    command = [
        sys.executable,
        "-m",
        "symconv",
        "audit",
        f"{models}:exact",
        "--input=3x8x8",
        "--json",
    ]
    done = subprocess.run([*command, *QUICK], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "Sequential"


# what cannot be asked


@pytest.mark.parametrize(
    ("target", "options", "code", "message"),
    [
        ("no_such_module:net", [], 2, "a module that can be imported"),
        ("{m}.inner:net", [], 2, "a module that can be imported"),
        ("{m}:stride", [], 2, "there is strided"),
        ("{m}:WIDTH", [], 2, "a model, a class or a function"),
        ("{m}:no_model", [], 2, "to return an nn.Module, got int"),
        ("{m}:fails", [], 1, "OSError: no weights here"),
        ("{m}:Broken", ["--input=3x8x8"], 2, "this forward fails"),
        ("{m}:strided", [], 2, "missing a required argument: 'width'"),
        ("{m}:strided", ["--args={"], 2, "--args in JSON"),
        ("{m}:strided", ["--args=3"], 2, "an object or a list"),
        ("{m}:strided", ['--args={"width": 3, "depth": 3}'], 2, "depth"),
        ("{m}:ready", ["--args=[3]"], 2, "is a model already"),
        ("{m}:ready", [], 2, "say --input 3x224x224"),
        ("{m}:ready", ["--input=3x"], 2, "--input with positive sizes"),
        ("{m}:ready", ["--input=3x8x8:float9"], 2, "a type of torch"),
        ("{m}:ready", ["--input=3x8x8", "--dtype=float9"], 2, "a type of torch"),
        ("{m}:ready", ["--input=3x8x8", "--dtype=int8"], 2, "--dtype float16"),
        ("{m}:ready", ["--input=3x8x8", "--batch=0"], 2, "--batch of at least 1"),
        ("{m}:ready", ["--input=3x8x8", "--group=C5x"], 2, "C5x"),
        ("{m}:ready", ["--input=3x8x8", "--fail-above=speed=3"], 2, "got speed"),
        ("{m}:ready", ["--input=3x8x8", "--fail-above=error"], 2, "a limit NAME=NUMBER"),
        ("{m}.py:ready", [], 2, "write it as it is imported"),
        ("{m}", [], 2, "a colon and the name"),
        ("no_such.pt2", [], 2, "which is none"),
        ("{m}:ready", ["--html=no/such/folder.html"], 2, "make no/such first"),
        ("{m}:ready", ["--html=."], 2, "--html to name a file"),
    ],
)
def test_what_cannot_be_asked_is_one_line(target, options, code, message, models):
    found = call(target.format(m=models), *options)
    assert found.exit_code == code, found.output
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("symconv: ")
    assert message in last
    assert "Traceback" not in found.output
    assert found.stdout == ""


def test_a_page_that_cannot_be_written_is_told_before_the_work(models):
    found = call(f"{models}:ready", "--input=3x8x8", "--html=no/such.html")
    assert "runs its code" not in found.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(models, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    assert "can be written" in call(f"{models}:ready", f"--html={folder / 'a.html'}").stderr


@pytest.mark.parametrize(
    ("package", "extra", "options"),
    [
        ("matplotlib", "report", ["--html=a.html"]),
        ("jinja2", "report", ["--html=a.html"]),
        ("rich", "cli", []),
    ],
)
def test_a_missing_extra_is_told_before_the_work(package, extra, options, models, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    found = call(f"{models}:ready", "--input=3x8x8", *options)
    assert found.exit_code == 1
    assert f"pip install 'symconv[{extra}]'" in found.stderr
    assert "runs its code" not in found.stderr


def test_help_is_quick_and_has_an_example():
    found = call("--help")
    assert found.exit_code == 0
    assert "symconv audit my_package.models:resnet --args" in found.output
    program = (
        "import sys; sys.argv = ['symconv', 'audit', '--help']\n"
        "from symconv.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.split("LOADED")[1].split())
    assert not loaded & {"torch", "numpy", "scipy", "matplotlib"}


def test_an_interrupt_is_one_line(models, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("symconv.auditing.command.audit", stop)
    found = call(f"{models}:ready", "--input=3x8x8")
    assert found.exit_code == 1
    assert found.stderr.splitlines()[-1] == "symconv: stopped"

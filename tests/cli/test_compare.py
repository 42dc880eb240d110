import json
import subprocess
import sys
import warnings

import pytest
from PIL import Image
from typer.testing import CliRunner

from symconv.cli import app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lightning_fabric imports is not ours
    import symconv.comparison.worker  # noqa: F401

TINY = [
    "--limit=300", "--seeds=2", "--steps=2", "--budget=params=9000", "--sizes=60",
    "--learning-rates=0.003", "--workers=1",
]  # fmt: skip


def call(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def loaded(*arguments):
    program = (
        "import sys; sys.argv = ['symconv', *sys.argv[1:]]\n"
        "from symconv.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sys.modules)"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split("LOADED")[1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    heavy = {"torch", "numpy", "scipy", "matplotlib", "lightning_fabric", "skimage", "sklearn"}
    assert not loaded(*arguments) & heavy


def test_a_heavy_import_would_be_seen():
    assert "torch" in loaded("compare", "no-such-folder")


def test_help_has_an_example():
    found = call("compare", "--help")
    assert found.exit_code == 0
    assert "symconv compare faces" in found.output
    assert "compare" in call("--help").output
    assert call().exit_code == 2


def test_the_tables_on_stdout_and_the_page(tmp_path):
    found = call("compare", "digits", "--structures=dense,conv", f"--out={tmp_path}", *TINY)
    assert found.exit_code == 0, found.output
    assert "equivariance error, before > after training" in found.stdout
    assert "any angle" in found.stdout
    assert f"page: {tmp_path / 'compare.html'}" in found.stdout.replace("\n", "")
    assert max(map(len, found.stdout.splitlines()[:-1])) <= 80
    assert (tmp_path / "compare.html").stat().st_size > 50_000


def test_json_is_one_document():
    found = call("compare", "--structures=dense,conv", "--json", "--no-equal-time", *TINY)
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert [line["label"] for line in document["lines"]] == ["dense", "conv"]
    assert document["equal_time_verdicts"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder"], "which is no folder"),
        (["--structures=dense,fancy"], "got fancy"),
        (["--structures="], "got none"),
        (["--budget=flops"], "a budget 'params'"),
        (["--sizes=many"], "whole numbers separated by commas"),
        (["--canvas=17"], "a canvas of 16"),
        (["--workers=0"], "at least one worker"),
        (["--learning-rates=0.01,nan"], "positive finite learning rates"),
        (["--learning-rates=inf"], "positive finite learning rates"),
        (["--accelerator=foo"], "accelerator among cpu"),
        (["--precision=foo"], "precision among 32-true"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_exit_code_2(arguments, message):
    found = call("compare", *arguments)
    assert found.exit_code == 2
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("symconv: expected")
    assert message in last
    assert "Traceback" not in found.output
    assert found.stdout == ""


def test_an_unknown_option_is_exit_code_2():
    assert call("compare", "--no-such-option").exit_code == 2


def test_failing_work_is_exit_code_1(monkeypatch):
    def fail(run):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("symconv.comparison.runs._execute", fail)
    found = call("compare", "--structures=dense", *TINY)
    assert found.exit_code == 1
    assert "symconv: out of memory" in found.stderr


def test_a_missing_extra_is_exit_code_1_and_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    found = call("compare", "faces", *TINY)
    assert found.exit_code == 1
    assert "pip install 'symconv[demo]'" in found.stderr


def test_an_output_that_cannot_be_written_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("symconv.comparison.runs._execute", lambda run: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    found = call("compare", f"--out={tmp_path / 'file' / 'out'}", *TINY)
    assert found.exit_code == 2
    assert "output directory" in found.stderr


@pytest.mark.filterwarnings("always:skipped")
@pytest.mark.parametrize("options", [["--json"], []])
def test_skipped_pictures_are_told_on_stderr(options, tmp_path):
    for index in range(40):
        path = tmp_path / ("a" if index % 2 else "b") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 6 * index).save(path)
    (tmp_path / "a" / "broken.png").write_text("no picture")
    found = call("compare", tmp_path, "--structures=dense", "--no-equal-time", *options, *TINY)
    assert found.exit_code == 0, found.output
    assert "warning: skipped 1 of 41 pictures" in found.stderr
    assert "warning" not in found.stdout


@pytest.mark.parametrize(
    ("package", "extra", "options"),
    [
        ("lightning_fabric", "train", ["--json"]),
        ("matplotlib", "report", ["--json", "--out=page"]),
        ("jinja2", "report", ["--out=page"]),
        ("rich", "cli", []),
    ],
)
def test_a_missing_extra_is_told_before_training(package, extra, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("symconv.comparison.runs._execute", lambda run: pytest.fail("trained"))
    monkeypatch.setitem(sys.modules, package, None)
    found = call("compare", *options, *TINY)
    assert found.exit_code == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.endswith(f"needs {package}: pip install 'symconv[{extra}]'")


def test_cost_without_rich_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    found = call("cost", "--input=1x8x8", "--kernel=3")
    assert found.exit_code == 1
    assert found.stderr == "symconv: symconv cost needs rich: pip install 'symconv[cli]'\n"

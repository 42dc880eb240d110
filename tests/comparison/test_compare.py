import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

import symconv as sc
from symconv.comparison import runs
from symconv.comparison.counting import Budget
from symconv.comparison.experiment import run
from symconv.comparison.notes import method_notes
from symconv.comparison.page import small_structure
from symconv.comparison.phases import calm
from symconv.comparison.runs import Store
from symconv.comparison.settings import Settings
from symconv.comparison.structures import ROWS
from symconv.data import Source
from symconv.errors import StructureError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lightning_fabric imports is not ours
    import symconv.comparison.worker

TINY = {
    "seeds": 2,
    "steps": 4,
    "budget": "params=9000",
    "learning_rates": (3e-3, 1e-2),
    "sizes": (60, 100),
    "workers": 1,
}
DATA = Source("digits", limit=300)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return sc.compare(DATA, ("dense", "region", "conv"), out=out, **TINY), out


def test_the_document_says_all_and_is_json(tiny):
    result, out = tiny
    document = json.loads((out / "compare.json").read_text())
    assert document == result.to_dict()
    assert [line["label"] for line in document["lines"]] == ["dense", "region", "conv"]
    for line in document["lines"]:
        assert line["parameters"] <= 9000
        assert set(line["curve"]) == {"as they are", "moved", "turned", "any angle", "mirrored"}
        assert set(line["curve"]["moved"]) == {"60", "100"}
        assert len(line["curve"]["moved"]["100"]["seeds"]) == 2
    assert document["headline"] == " ".join(result.sentences)


def test_the_tables_fit_eighty_columns(tiny):
    text = str(tiny[0])
    assert max(map(len, text.splitlines())) <= 80
    for word in ("dense", "region", "conv", "equal time", "any angle", "before > after", "±"):
        assert word in text


def test_the_page_is_one_file_that_loads_nothing(tiny):
    page = (tiny[1] / "compare.html").read_text()
    assert page.count("<svg") > 8
    for forbidden in ("<script", "<link", "@import", 'src="http', "url(http"):
        assert forbidden not in page
    assert "top band" in page
    assert "f(g(x))" in page


def test_the_page_is_the_same_each_time_and_draws_nothing_at_random(tiny):
    result, out = tiny
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    page = result.to_html(out / "again.html").read_text()
    assert page == (out / "compare.html").read_text()
    assert torch.equal(torch.rand(2), expected)


def test_the_page_escapes_names(tiny):
    result, out = tiny
    result.data["name"] = "<b>cats</b>"
    try:
        page = result.to_html(out / "other.html").read_text()
    finally:
        result.data["name"] = "digits"
    assert "<b>cats" not in page
    assert "&lt;b&gt;cats" in page


def test_equal_time_gives_the_fast_ones_more_steps(tiny):
    steps = {line.label: line.equal_time_steps for line in tiny[0].lines}
    assert min(steps.values()) == 4
    assert steps["dense"] > 4


def test_every_run_of_a_smaller_size_has_fewer_steps(tiny):
    found = {(r["train_size"], r["steps"]) for r in stored(tiny[1]) if r["final"]}
    assert {steps for size, steps in found if size == 60} == {3}
    assert Settings(steps=100).steps_for(25, 100) == 50


def test_the_same_seeds_are_trained_for_every_structure_and_none_tunes_the_rate(tiny):
    seeds = {}
    for r in stored(tiny[1]):
        seeds.setdefault((r["structure"], r["final"]), set()).add(r["seed"])
    for structure in ("dense", "region", "conv"):
        assert seeds[structure, True] == {0, 1}
        assert not seeds[structure, False] & seeds[structure, True]


def stored(out):
    return [json.loads(path.read_text())["run"] for path in (out / "runs").glob("*.json")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_structure_can_be_drawn_or_has_none(row):
    """The page draws its layer on a map of 6x6, where every unit sees something."""
    structure = small_structure(row)
    if row.name.startswith("scale"):
        assert structure is None
    else:
        assert structure.connections >= structure.outputs > 0


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    out = tmp_path_factory.mktemp("groups")
    settings = TINY | {"sizes": (60,), "learning_rates": (1e-2,), "budget": "params"}
    return sc.compare(DATA, ("conv", "conv+turns", "C8", "C8+turns"), out=out, **settings), out


def test_a_comparison_of_groups_says_where_symmetry_pays(groups):
    result, out = groups
    assert [(p.group, p.plain) for p in result.payoffs[:2]] == [
        ("C8", "conv"), ("C8+turns", "conv+turns"),
    ]  # fmt: skip
    assert sum("beside conv" in sentence for sentence in result.sentences) == 3
    page = (out / "compare.html").read_text()
    assert "Does sharing over turns pay?" in page
    assert "background: transparent; border-color: #7b3294" in page, "C8+turns has an open mark"
    for line in result.lines:
        assert line.errors_before["turn 90"] >= 0
        assert (line.errors["turn 90"] < 1e-4) == line.label.startswith("C8")
    assert max(map(len, str(result).splitlines())) <= 80
    text = " ".join(method_notes(result))
    assert "cubic splines" in text
    assert "turned by any angle for '+turns'" in text


def test_the_lead_is_shorter_than_the_verdicts_in_full(groups):
    result, _ = groups
    assert len(result.sentences) < len(result.details)
    assert len(result.headline) < 0.7 * sum(map(len, result.details))


def test_narrow_terminals_show_every_number(groups):
    from rich.console import Console

    from symconv.comparison.tables import show

    console = Console(width=50, color_system=None, force_terminal=False)
    with console.capture() as captured:
        show(groups[0], console)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 50
    assert "C8+turns" in captured.get()
    for line in groups[0].lines:
        for accuracy in (line.accuracy(test) for test in line.curve):
            assert f" {100 * accuracy.mean:.1f} " in captured.get()


def final(path):
    found = json.loads(path.read_text())["run"]
    return found["final"] and found["train_size"] == 60


def test_finished_runs_are_not_repeated_and_a_damaged_one_is(tiny, monkeypatch):
    result, out = tiny
    executed = count_executed(monkeypatch)
    settings = result.settings
    assert run(settings, Store(out / "runs"), workers=1).to_dict() == result.to_dict()
    assert not executed
    damaged = next(path for path in (out / "runs").glob("dense-*.json") if final(path))
    damaged.write_text(damaged.read_text()[:50])
    run(replace(settings, equal_time=False), Store(out / "runs"), workers=1)
    assert [done.structure for done in executed] == ["dense"]


SCRIPT = """
import sys, symconv as sc
from symconv.data import Source
if __name__ == "__main__":
    sc.compare(Source("digits", limit=300), ("dense", "sparse"), out=sys.argv[1], seeds=3,
               steps=60, budget="params=9000", sizes=(60, 100), equal_time=False, workers=1,
               progress=lambda done, total, what: print(done, flush=True))
"""


def test_a_killed_comparison_continues_from_its_finished_runs(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, str(script), str(out)], stdout=PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 6:  # four for tuning, then two of twelve final runs
            break
    process.kill()
    process.wait()
    process.stdout.close()
    finished = len(list((out / "runs").glob("*.json")))
    assert 6 <= finished < 16
    assert not (out / "compare.json").exists()
    executed = count_executed(monkeypatch)
    budget = Budget("params", 9000)
    settings = Settings(DATA, ("dense", "sparse"), budget, 3, 60, sizes=(60, 100), equal_time=False)
    assert len(run(settings, Store(out / "runs"), workers=1).lines) == 2
    assert len(executed) == 16 - finished


def count_executed(monkeypatch):
    """A list that grows by each run that is trained."""
    executed, genuine = [], runs._execute
    monkeypatch.setattr(runs, "_execute", lambda run: executed.append(run) or genuine(run))
    return executed


ORPHAN = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from symconv.comparison.runs import _leave_with_parent
def work():
    print(os.getpid(), flush=True)
    time.sleep(600)
if __name__ == "__main__":
    options = {"initializer": _leave_with_parent} if sys.argv[1] == "watched" else {}
    with ProcessPoolExecutor(1, get_context("spawn"), **options) as pool:
        pool.submit(work).result()
"""


@pytest.mark.parametrize("kind", ["watched", "unwatched"])
def test_workers_end_with_a_killed_parent(kind, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHAN)
    parent = subprocess.Popen([sys.executable, str(script), kind], stdout=PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    try:
        assert ends(worker, seconds=60 if kind == "watched" else 1) == (kind == "watched")
    finally:
        parent.stdout.close()
        if kind == "unwatched":  # the negative control leaves an orphan behind
            os.kill(worker, signal.SIGKILL)


def ends(process, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        if "\nState:\tZ" in Path(f"/proc/{process}/status").read_text():
            return True  # ended, though nobody has asked for its exit code
        time.sleep(0.05)
    return False


def test_a_script_without_its_guard_is_told(tmp_path):
    script = tmp_path / "bare.py"
    script.write_text(
        "import symconv as sc\n"
        "sc.compare('digits', ('dense',), steps=2, seeds=2, sizes=(60,), workers=2)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode != 0
    assert 'if __name__ == "__main__":' in done.stderr


@pytest.mark.parametrize(
    ("sweep", "structures", "labels"),
    [
        ("fan-in", None, [f"k = {2**i}" for i in range(9)]),
        ("kernel", ("conv",), [f"conv {k}x{k}" for k in (1, 3, 5, 7)]),
    ],
)
def test_sweeps(sweep, structures, labels, tmp_path):
    settings = TINY | {"learning_rates": (3e-3,), "sizes": (60,), "steps": 2, "sweep": sweep}
    result = sc.compare(DATA, structures, out=tmp_path, **settings)
    assert [line.label for line in result.lines] == labels
    assert len({line.width for line in result.lines}) == 1
    fan_in = [line.fan_in for line in result.lines]
    assert fan_in == sorted(set(fan_in))
    assert max(map(len, str(result).splitlines())) <= 80
    assert "cannot be told from it" in result.headline
    assert "<svg" in (tmp_path / "compare.html").read_text()


def test_a_kernel_sweep_without_kernels():
    with pytest.raises(StructureError, match="local or conv to sweep"):
        sc.compare(DATA, ("dense",), sweep="kernel", **TINY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structures": ("dense", "fancy")}, "got fancy"),
        ({"structures": ()}, "got none"),
        ({"structures": ("conv", "conv")}, "different structures"),
        ({"seeds": 0}, "seeds of at least 1"),
        ({"steps": 0}, "steps of at least 1"),
        ({"batch": 1}, "batch of at least 2"),
        ({"sweep": "depth"}, "a sweep over"),
        ({"learning_rates": ()}, "positive finite learning rates"),
        ({"sizes": (0,)}, "training sizes"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(StructureError, match=message):
        Settings(**settings)


def test_an_output_directory_is_tried_before_anything_else(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StructureError, match="output directory"):
        sc.compare("no-such-folder", out=tmp_path / "file", **TINY)
    with pytest.raises(StructureError, match="which is no folder"):
        sc.compare("no-such-folder", **TINY)
    with pytest.raises(StructureError, match="at least one worker"):
        sc.compare(DATA, **TINY | {"workers": 0})


def test_steps_are_rounded_down_to_two_digits():
    assert [calm(n) for n in (3, 99, 101, 1999, 25_600)] == [3, 99, 100, 1900, 25_000]


def test_one_structure_may_be_named_by_itself():
    assert [line.label for line in sc.compare(DATA, "conv", **TINY, equal_time=False).lines] == [
        "conv"
    ]


def test_what_is_no_number_becomes_null(tiny):
    errors = tiny[0].lines[0].errors | {"shift": float("nan")}
    line = replace(tiny[0].lines[0], errors=errors, seconds=float("inf"))
    text = replace(tiny[0], lines=[line]).to_json()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))["lines"][0]
    assert (found["errors"]["shift"], found["seconds"]) == (None, None)


def test_the_notes_say_how_rates_are_chosen_and_that_crops_overlap(tiny):
    text = " ".join(method_notes(tiny[0]))
    assert "never used to choose anything" in text
    assert "largest training size under equal steps" in text
    assert "the smaller sizes and for equal time" in text
    assert "overlap" not in text
    crops = replace(tiny[0], data=tiny[0].data | {"name": "textures"})
    assert "test crops overlap" in " ".join(method_notes(crops))

import json
import os

import pytest

from symconv.comparison.runs import Run, Runner, Store, code_mark, writable_folder
from symconv.data import Source
from symconv.errors import StructureError


def a_run(**changes):
    return Run(Source("digits", limit=300), "mark", "dense", 3, 60, 0, 2, 3e-3).with_(**changes)


def test_a_key_follows_every_field():
    keys = {a_run().key}
    changes = [
        {"data": "other"},
        {"seed": 1},
        {"steps": 3},
        {"width": 4},
        {"learning_rate": 1e-3},
        {"train_size": 61},
        {"final": True},
        {"source": Source("digits")},
    ]
    keys |= {a_run(**change).key for change in changes}
    assert len(keys) == len(changes) + 1
    assert a_run().key == a_run().key


def test_results_of_other_code_are_not_served(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("1")
    first = code_mark.__wrapped__(tmp_path)
    (tmp_path / "a.py").write_text("2")
    assert code_mark.__wrapped__(tmp_path) != first
    store = Store(tmp_path)
    store.save(a_run(), {"loss": 1.5})
    for name in ("symconv.comparison.runs.code_mark", "symconv.comparison.runs.torch.__version__"):
        with monkeypatch.context() as patch:
            patch.setattr(name, (lambda: "other") if name.endswith("mark") else "0.0")
            assert store.load(a_run()) is None
    assert store.load(a_run()) == {"loss": 1.5}


def test_a_result_is_found_again_and_a_damaged_file_is_not_believed(tmp_path):
    store = Store(tmp_path)
    store.save(a_run(), {"loss": 1.5})
    assert store.load(a_run()) == {"loss": 1.5}
    assert store.load(a_run(seed=1)) is None
    path = tmp_path / f"{a_run().key}.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert store.load(a_run()) is None
    path.write_text(json.dumps([1]))
    assert store.load(a_run()) is None
    path.write_text(json.dumps({"run": a_run(seed=7).document, "result": {}}))
    assert store.load(a_run()) is None, "another run's result under this name"


def test_nothing_partial_is_left_behind(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(TypeError):
        store.save(a_run(), {"loss": object()})
    store.save(a_run(), {"loss": 1})
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StructureError, match="an output directory that can be written"):
        writable_folder(tmp_path / "file" / "out")
    assert writable_folder(tmp_path / "new" / "out").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StructureError, match="Permission denied"):
        writable_folder(tmp_path)


def test_only_what_is_missing_is_trained(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "symconv.comparison.runs._execute", lambda r: trained.append(r) or {"n": r.seed}
    )
    runs = [a_run(seed=seed) for seed in range(4)]
    with Runner(1, Store(tmp_path)) as runner:
        runner.run(runs[:2], "")
    seen = []
    with Runner(1, Store(tmp_path), lambda *now: seen.append(now), total=4) as runner:
        results = runner.run(runs, "again")
    assert [run.seed for run in trained] == [0, 1, 2, 3]
    assert [result["n"] for result in results] == [0, 1, 2, 3]
    assert runner.trained == 2
    assert seen == [(2, 4, "again"), (3, 4, "again"), (4, 4, "again")]

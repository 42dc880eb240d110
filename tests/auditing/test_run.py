"""`audit`: every part on one call; a part that cannot run is None with its reason."""

import json

import pytest
import torch
from torch import nn

import symconv as sc
from auditing import networks
from auditing.counting import Of
from symconv.auditing import ModelError
from symconv.auditing import run as auditing_run

PARTS = dict.fromkeys(("counts", "receptive_field", "equivariance", "sizes"), False)
X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small():
    conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, 2, 1)
    return nn.Sequential(conv[0], nn.ReLU(), conv[1])


def only(part, model=None, x=X):
    return sc.audit(model or small(), x, **{**PARTS, part: True})


def test_every_part():
    report = sc.audit(small(), X)
    assert (report.model, report.input) == ("Sequential", "1x3x16x16 float32")
    assert report.total.macs == 256 * 8 * 27 + 64 * 4 * 72
    assert [row.receptive_field.size for row in report.layers] == [(3, 3), (3, 3), (5, 5)]
    assert (report.receptive_field.size, report.receptive_field.stride) == ((5, 5), (2, 2))
    assert {row.layer for row in report.equivariance} >= {"", "0", "2"}
    assert report.sizes.law is not None
    assert report.reasons == {}
    assert set(report.versions) >= {"symconv", "torch"}


@pytest.mark.parametrize("part", PARTS)
def test_one_part_alone(part):
    report = only(part)
    found = {
        "counts": report.total,
        "receptive_field": report.receptive_field,
        "equivariance": report.equivariance,
        "sizes": report.sizes,
    }
    assert [name for name, value in found.items() if value is not None] == [part]
    assert report.reasons == {}


def test_fields_without_counts_are_rows_of_their_own():
    rows = {row.name: row for row in only("receptive_field").layers}
    assert rows["2"].receptive_field.size == (5, 5)
    assert rows["2"].macs is None


@pytest.mark.parametrize("part", ["count", "receptive_fields", "measure", "find_sizes"])
def test_a_part_that_fails_does_not_take_the_others_with_it(part, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of ideas\nand more")

    monkeypatch.setattr(auditing_run, part, fail)
    report = sc.audit(small(), X)
    names = dict(zip(["count", "receptive_fields", "measure", "find_sizes"], PARTS, strict=True))
    assert report.reasons == {names[part]: "out of ideas"}


def test_an_input_without_space():
    report = sc.audit(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.randn(2, 8))
    assert report.total.macs == 64
    assert (report.receptive_field, report.equivariance, report.sizes) == (None, None, None)
    assert set(report.reasons) == {"receptive_field", "equivariance", "sizes"}
    assert all(report.reasons.values())


def test_a_document_of_plain_values():
    report = sc.audit(small(), X)
    document = json.loads(report.to_json())
    assert document == json.loads(json.dumps(report.to_dict()))
    assert document["total"]["macs"] == report.total.macs
    assert document["layers"][0]["receptive_field"]["size"] == [3, 3]
    assert [row["transform"] for row in document["equivariance"]]


def test_an_exported_program_reports_what_its_model_does():
    net = small().eval()
    program, plain = torch.export.export(net, (X,)), only("counts", net)
    report = sc.audit(program, X, sizes=False)
    assert report.model == "exported program"
    assert report.total == plain.total
    assert report.receptive_field.size == (5, 5)


@pytest.mark.parametrize("parts", [{}, PARTS, {**PARTS, "sizes": True}])
def test_a_model_that_fails_is_told_whatever_is_asked(parts):
    with pytest.raises(ModelError, match="an input that Sequential takes, got 1x4x16x16 float32"):
        sc.audit(small(), torch.randn(1, 4, 16, 16), **parts)


def test_control_flow_that_depends_on_the_data():
    net = Of(lambda m, x: m.layer(x) if float(x.mean()) > -9 else x, layer=nn.Conv2d(3, 3, 3))
    report = sc.audit(net, X)
    assert report.total.macs == 14 * 14 * 3 * 27
    assert report.total.unknown == ()


def test_outputs_in_a_dictionary_beside_text():
    net = Of(lambda m, x: {"map": m.layer(x), "name": "net"}, layer=nn.Conv2d(3, 3, 1))
    report = sc.audit(net, X)
    assert report.receptive_field.size == (1, 1)
    assert report.equivariance is not None


def test_numbers_of_a_known_network():
    report = only("counts", networks.resnet18(), torch.zeros(1, 3, 224, 224))
    assert round(report.total.macs / 1e9, 4) == 1.8141
    assert report.total.parameters == 11_689_512
    report.require("macs=1.9e9", parameters=12e6)
    with pytest.raises(AssertionError, match="macs"):
        report.require(macs=1.8e9)
    with pytest.raises(AssertionError, match="interior_error"):  # not measured
        report.require(interior_error=1.0)


def test_it_prints_a_table_of_eighty_columns():
    text = str(sc.audit(small(), X))
    assert "Conv2d" in text
    assert max(map(len, text.splitlines())) <= 80


def test_no_hook_stays_behind():
    """Torch's own removal forgets a part of one kind of hook; the compiler then warns of it."""
    kept = [name for name in dir(nn.modules.module) if name.startswith("_global_")]
    tables = {name: getattr(nn.modules.module, name) for name in kept}
    sizes = {name: len(table) for name, table in tables.items() if hasattr(table, "__len__")}
    assert len(sizes) > 4
    sc.audit(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()), torch.randn(1, 1, 8, 8))
    assert sizes == {name: len(tables[name]) for name in sizes}


def test_a_sequence_is_no_signal():
    """(N, L, C): its last axis is no space, so that nothing is said of sizes and fields."""
    report = sc.audit(nn.LSTM(8, 4, batch_first=True), torch.randn(2, 7, 8))
    for part in ("receptive_field", "equivariance", "sizes"):
        assert getattr(report, part) is None
        assert "takes as features" in report.reasons[part]
    assert report.total.macs == 2 * 7 * 4 * (8 + 4) * 4
    signal = sc.audit(nn.Sequential(nn.Conv1d(8, 4, 3), nn.Conv1d(4, 4, 3)), torch.randn(2, 8, 7))
    assert signal.receptive_field.size == (5,)


def test_half_precision_is_not_taken_for_blindness():
    report = sc.audit(nn.Conv2d(3, 4, 3).bfloat16(), X.bfloat16())
    assert not any("hardly depends" in said for said in report.culprits)
    blind = sc.audit(nn.Sequential(nn.Conv2d(3, 4, 3), Constant()), X)
    assert any("hardly depends" in said for said in blind.culprits)


class Constant(nn.Module):
    def forward(self, x):
        return 1e-9 * x + 1


def test_the_border_is_named_where_it_alone_breaks_a_shift():
    torch.manual_seed(0)
    padded = sc.audit(nn.Conv2d(3, 4, 3, padding=1).double(), X.double())
    assert any(said.endswith("at the border alone") for said in padded.culprits)
    strided = sc.audit(nn.Conv2d(3, 4, 2, stride=2).double(), X.double())
    assert strided.culprits
    assert not any("at the border" in said for said in strided.culprits)


def test_what_was_not_measured_has_no_verdict():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(1024, 2))
    rows = [row for row in sc.audit(net, X).equivariance if row.error is None and not row.layer]
    assert rows
    assert all(row.verdict is None for row in rows)


@pytest.mark.parametrize("output", ["text", None])
def test_outputs_that_are_no_tensors_are_named(output):
    report = sc.audit(Of(lambda m, x: (m.layer(x), output)[1], layer=nn.Conv2d(3, 2, 3)), X)
    assert report.total.macs == 2 * 27 * 14 * 14
    assert report.receptive_field is None
    assert "no tensor" in report.reasons["receptive_field"]
    for part in ("equivariance", "sizes"):
        assert f"got {type(output).__name__}" in report.reasons[part]

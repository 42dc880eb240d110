"""Symmetrised models as modules: gradients, modes, copies, graphs, types, layouts; boxes."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

import symconv as sc
from symconv.conversion import Canonicaliser, boxes

D4 = sc.groups.parse("D4")


def cnn(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    ).to(dtype).eval()  # fmt: skip


def segmenting(dtype=torch.float32):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, 1, 1), nn.Tanh(), nn.Conv2d(4, 2, 3, 1, 1)
    return nn.Sequential(*conv).to(dtype).eval()


WAYS = {
    "average": ("D4", {}),
    "canonical": ("D4", {"how": "canonical"}),
    "first": ("D4", {"how": "canonical", "ties": "first"}),
    "learned": ("D4", {"how": "canonical", "ties": "first", "learned": True}),
    "period": ("translations", {"period": 2}),
    "shift": ("translations", {"how": "canonical"}),
    "first shift": ("translations", {"how": "canonical", "ties": "first"}),
}
BUILDS = {"scores": cnn, "map": segmenting}
each = pytest.mark.parametrize("way", WAYS)
both = pytest.mark.parametrize("output", BUILDS)
graphs = pytest.mark.parametrize(
    ("way", "output"),
    [
        ("average", "scores"),
        ("period", "map"),
        ("canonical", "scores"),
        ("learned", "map"),
        ("first shift", "scores"),
    ],
)


def wrapped(way, output, dtype=torch.float32):
    group, options = WAYS[way]
    options = dict(options)
    if options.pop("learned", False):
        torch.manual_seed(1)
        options["canonicaliser"] = Canonicaliser(D4.trivial(3), width=1, kernel_size=3, dtype=dtype)
    return sc.symmetrize(BUILDS[output](dtype), group, output=output, **options)


def pictures(dtype=torch.float32, count=3):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=dtype)


# The model that is wrapped


def test_the_model_is_shared_and_unchanged():
    model = cnn()
    before = copy.deepcopy(model.state_dict())
    for training in (True, False):
        model.train(training)
        for how in ("average", "canonical"):
            made = sc.symmetrize(model, "D4", how)
            made(pictures())
            assert made.training == model.training == training
            assert made.model is model
            assert {f"model.{name}" for name in before} == made.state_dict().keys()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    made.train()
    assert model.training
    assert {id(p) for p in made.parameters()} == {id(p) for p in model.parameters()}


def test_batch_norm_sees_the_copies_of_a_chunk():
    x = pictures()
    norm = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3, padding=1))
    one, all_at_once = copy.deepcopy(norm).train(), copy.deepcopy(norm).train()
    sc.symmetrize(one, "D4", output="map", chunk=1)(x)
    sc.symmetrize(all_at_once, "D4", output="map", chunk=8)(x)
    assert [m[0].num_batches_tracked.item() for m in (one, all_at_once)] == [8, 1]
    moved = torch.cat([sc.act(g, x) for g in D4.elements])
    by_hand = copy.deepcopy(norm).train()
    by_hand(moved)
    torch.testing.assert_close(all_at_once[0].running_var, by_hand[0].running_var)


@graphs
def test_gradients(way, output):
    made = wrapped(way, output, torch.float64)
    x = pictures(torch.float64, 1).requires_grad_()
    assert gradcheck(made, (x,))
    y = made(x)
    y.square().sum().backward()
    plain, g = made.model, [p.grad.clone() for p in made.model.parameters()]
    plain.zero_grad()
    direction = [torch.randn_like(p) for p in plain.parameters()]
    slope = sum((a * b).sum() for a, b in zip(g, direction, strict=True))
    values = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for p, d in zip(plain.parameters(), direction, strict=True):
                p += step * d
            values.append(made(x).square().sum())
    torch.testing.assert_close(slope, (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-6)


@each
@both
def test_copies(way, output):
    made, x = wrapped(way, output), pictures()
    buffer = io.BytesIO()
    torch.save(made, buffer)
    buffer.seek(0)
    expected = made(x)
    for other in (
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(other(x), expected)


@graphs
def test_compiled(way, output):
    made, x = wrapped(way, output), pictures()
    torch._dynamo.reset()
    full = way not in ("canonical", "shift")
    compiled = torch.compile(made, fullgraph=full, backend="aot_eager")
    torch.testing.assert_close(compiled(x), made(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", ["average", "canonical", "first", "first shift"])
@pytest.mark.parametrize("output", ["scores"])
def test_exported(way, output):
    made, x = wrapped(way, output), pictures(count=4)
    batch = ({0: torch.export.Dim("batch", min=2)},)
    if way in ("canonical", "shift"):
        with pytest.raises(sc.StructureError, match='ties="first"'):
            torch.export.export(made, (x,), dynamic_shapes=batch)
        return
    program = torch.export.export(made, (x,), dynamic_shapes=batch).module()
    assert torch.equal(program(x[:3]), made(x[:3]))


def test_onnx_equals_eager(tmp_path):
    made, x = wrapped("learned", "scores"), pictures(count=4)
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its exporter
        program = torch.onnx.export(made, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (y,) = session.run(None, {session.get_inputs()[0].name: x[:3].numpy()})
    torch.testing.assert_close(torch.from_numpy(y), made(x[:3]).detach(), rtol=1e-4, atol=1e-5)


@each
@both
def test_layouts_types_and_empty_batches(way, output):
    made, x = wrapped(way, output), pictures()
    last = made(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, made(x), rtol=1e-5, atol=1e-5)
    assert made(x[:0]).shape == (0, *made(x).shape[1:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, moved = made(x), made(sc.act(D4.elements[5], x))
    assert y.dtype == torch.bfloat16
    if way in ("average", "canonical", "first", "learned"):
        expected = y if output == "scores" else sc.act(D4.elements[5], y)
        assert torch.equal(moved, expected)


def test_channels_last_is_kept_and_exact():
    x = pictures().to(memory_format=torch.channels_last)
    seen = []
    model = segmenting()
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for how in ("average", "canonical"):
        made = sc.symmetrize(model, "D4", how, output="map")
        y = made(x)
        moved = sc.act(D4.elements[1], x).contiguous(memory_format=torch.channels_last)
        assert (made(moved) - sc.act(D4.elements[1], y)).abs().max() <= 1e-6
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen)


@pytest.mark.parametrize("group", ["D4", "translations"])
@pytest.mark.parametrize("how", ["average", "canonical"])
def test_models_that_work_in_place(group, how):
    model = nn.Sequential(nn.ReLU(inplace=True), *segmenting())
    x = pictures() - 0.5
    given = x.clone()
    options = {"period": 2} if (group, how) == ("translations", "average") else {}
    y = sc.symmetrize(model, group, how, output="map", **options)(x)
    assert torch.equal(x, given)
    expected = sc.symmetrize(nn.Sequential(nn.ReLU(), *segmenting()), group, how, output="map",
                             **options)(given)  # fmt: skip
    assert torch.equal(y, expected)


def test_the_audit_sees_the_symmetry():
    x = pictures(count=1)
    for made, verdict in ((cnn(), "broken"), (sc.symmetrize(cnn(), "D4", "canonical"), "exact")):
        report = sc.audit(made, x, group="D4", receptive_field=False, sizes=False)
        rows = [row for row in report.equivariance if row.layer == "" and row.transform[0] != "s"]
        assert {row.verdict for row in rows} == {verdict}
        assert torch.equal(made(x), copy.deepcopy(made)(x))  # nothing fake was kept


# Boxes and other outputs


def extent(mask):
    """The box of a mask (H, W), found by looking: x1, y1, x2, y2 by the pixels' edges."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@given(st.data(), st.sampled_from(["C2", "D2", "C4", "D4"]))
def test_boxes_move_as_what_they_hold(data, name):
    height = data.draw(st.integers(2, 9))
    width = data.draw(st.integers(2, 9))
    y1 = data.draw(st.integers(0, height - 1))
    x1 = data.draw(st.integers(0, width - 1))
    y2, x2 = data.draw(st.integers(y1 + 1, height)), data.draw(st.integers(x1 + 1, width))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    box = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32)
    share = box / torch.tensor([width, height, width, height])
    for g in sc.groups.parse(name).elements:
        moved = sc.act(g, mask)
        expected = torch.tensor([extent(moved)], dtype=torch.float32)
        assert torch.equal(boxes((height, width))(g, box), expected)
        h, w = moved.shape
        torch.testing.assert_close(boxes()(g, share) * torch.tensor([w, h, w, h]), expected)


class BoxHead(nn.Module):
    """Boxes and scores of a fixed number of queries, as DETR gives them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten())
        self.box, self.score = nn.Linear(64, 3 * 4), nn.Linear(64, 3)

    def forward(self, x):
        found = self.body(x)
        first, second = self.box(found).sigmoid().view(-1, 3, 2, 2).unbind(2)
        corners = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)
        return {"boxes": 8 * corners, "extra": (self.score(found), [found])}


def moved_output(element, y):
    return {"boxes": boxes((8, 8))(element, y["boxes"]), "extra": y["extra"]}


@pytest.mark.parametrize("how", ["average", "canonical"])
def test_boxes_follow_the_picture(how):
    model, x = BoxHead().eval(), pictures(count=5)
    made = sc.symmetrize(model, "D4", how, output=moved_output)
    x[1] = x[1] + x[1].flip(-1)  # one that ties
    y = made(x)
    own = 0.0
    for g in D4.elements:
        found = made(sc.act(g, x))
        torch.testing.assert_close(found["boxes"], boxes((8, 8))(g, y["boxes"]), atol=2e-6, rtol=0)
        torch.testing.assert_close(found["extra"][0], y["extra"][0], atol=1e-6, rtol=0)
        plain = boxes((8, 8))(g, model(x)["boxes"])
        own = max(own, float((model(sc.act(g, x))["boxes"] - plain).detach().abs().max()))
    assert own > 0.01
    assert isinstance(y["extra"], tuple)
    assert isinstance(y["extra"][1], list)


def test_a_callable_of_shifts_gets_the_steps_back():
    seen = []

    def back(steps, y):
        seen.append(steps)
        return sc.translate(y, steps)

    x = pictures(count=4)
    one = sc.symmetrize(segmenting(), "translations", "canonical", output=back)
    assert torch.equal(one(x), sc.symmetrize(one.model, "translations", "canonical",
                                             output="map")(x))  # fmt: skip
    assert all(len(steps) == 2 for steps in seen)


def test_what_is_printed():
    made = sc.symmetrize(cnn(), "D4", "canonical")
    first = "Canonical(\n" + "  how=\"canonical\", output='scores'"
    assert repr(made).startswith(first)
    assert "(motion): Turns(D4)" in repr(made)

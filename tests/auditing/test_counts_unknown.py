"""What cannot be counted is said, never zero; and what the model itself cannot do is told."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditing.counting import BATCH, TOKENS, WIDTH, Of, counts, tokens, weight
from symconv.auditing.call import Call, ModelError, tensors_of
from symconv.auditing.counts.formulas import FORMULAS
from symconv.auditing.counts.free import is_free
from symconv.errors import StructureError


@torch.library.custom_op("audited::opaque", mutates_args=())
def opaque(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


@torch.library.custom_op("audited::opaque_with_shape", mutates_args=())
def opaque_with_shape(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


opaque_with_shape.register_fake(lambda x, w: x.new_empty((*x.shape[:-1], w.shape[-1])))
CORNERS = dict(align_corners=False)
LINEAR = BATCH * TOKENS * WIDTH * WIDTH


@pytest.mark.parametrize("operation", [opaque, opaque_with_shape])
def test_an_operation_of_somebody_else(operation):
    net = Of(lambda m, x: operation(m.layer(x), m.w), layer=nn.Linear(WIDTH, WIDTH), w=weight(8, 3))
    found = counts(net, tokens())
    name = f"audited::{'opaque' if operation is opaque else 'opaque_with_shape'}"
    row = next(row for row in found.layers if row.name == f":{name}")
    assert row.macs is None
    assert row.note == f"unknown, at least 0 MACs: {name}"
    assert found.total.unknown == (f"{name} in Of",)
    assert found.total.macs == LINEAR
    assert found.total.parameters == 64 + 8 + 24


@pytest.mark.parametrize(
    ("formula", "model", "x"),
    [
        ("convolution", nn.Conv1d(TOKENS, 4, 3), tokens()),
        ("addmm", nn.Linear(WIDTH, 3), tokens()[0]),
        ("bmm", Of(lambda m, x: x @ x.mT), tokens()),
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            Of(lambda m, x: F.scaled_dot_product_attention(x, x, x)),
            tokens()[None],
        ),
    ],
)
def test_without_its_formula_an_operation_is_unknown_not_zero(formula, model, x, monkeypatch):
    assert counts(model, x).total.unknown == ()
    monkeypatch.delitem(FORMULAS, formula)
    found = counts(model, x)
    assert [row.macs for row in found.layers] == [None]
    assert found.total.unknown == (f"aten::{formula} in {type(model).__name__}",)


def test_a_decomposition_of_a_matrix():
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), Of(lambda m, x: torch.linalg.inv(x.mT @ x)))
    found = counts(net, tokens())
    assert found.layers[1].macs == BATCH * TOKENS * WIDTH * WIDTH
    assert found.layers[1].note.startswith(
        f"unknown, at least {found.layers[1].macs:,} MACs: aten::"
    )


def test_numbers_that_leave_torch():
    def by_numpy(model, x):
        return torch.from_numpy(x.numpy() @ x.numpy().swapaxes(1, 2))

    (row,) = counts(Of(by_numpy), tokens()).layers
    assert (row.macs, row.note) == (
        None,
        "unknown, at least 0 MACs: something computed outside torch's operations",
    )


def test_memory_that_something_unseen_filled():
    def by_kernel(model, x):
        out = torch.empty(x.shape)
        _fill(out)
        return out + 1

    def _fill(out):  # as a compiled kernel does: by address, past torch's dispatcher
        import ctypes

        ctypes.memset(out.data_ptr(), 0, out.numel() * out.element_size())

    (row,) = counts(Of(by_kernel), tokens()).layers
    assert row.note == "unknown, at least 0 MACs: something computed outside torch's operations"


@pytest.mark.parametrize("fill", ["copy_", "normal_", "index"])
def test_memory_that_torch_filled_is_known(fill):
    def forward(model, x):
        out = torch.empty(x.shape)
        if fill == "index":
            out[:] = x
        elif fill == "copy_":
            out.copy_(x)
        else:
            out.normal_()
        return out + torch.tensor([1.0])

    assert not counts(Of(forward), tokens()).total.unknown


def test_the_lists_do_not_overlap():
    for name in FORMULAS:
        packet = getattr(torch.ops.aten, name, None)
        if packet is None:  # ours, or of another version of torch
            continue
        assert not any(is_free(getattr(packet, overload)) for overload in packet.overloads()), name


def test_what_may_contract_is_not_taken_to_be_free():
    suspects = "linalg_svd linalg_eigh linalg_solve_ex linalg_qr _linalg_svd cholesky lstm mm"
    for name in [*suspects.split(), "_fft_r2c", "linalg_matrix_exp", "ormqr", "_grouped_mm"]:
        for packet in (getattr(torch.ops.aten, name, None),):
            if packet is not None:
                assert not is_free(getattr(packet, packet.overloads()[0])), name


def test_boxes_of_torchvision_are_free_and_its_convolution_is_not():
    def operation(name):
        return SimpleNamespace(namespace="torchvision", _opname=name)

    assert is_free(operation("nms"))
    assert is_free(operation("roi_align"))
    assert not is_free(operation("deform_conv2d"))


def test_layers_that_do_not_contract_are_known_to():
    x = torch.rand(2, 4, 12, 12)
    layers = [
        nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Softmax(1), nn.LogSoftmax(1), nn.PReLU(), nn.GLU(1),
        nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(12),
        nn.RMSNorm(12), nn.LocalResponseNorm(2), nn.MaxPool2d(2), nn.AvgPool2d(2),
        nn.LPPool2d(2, 2), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(3),
        nn.FractionalMaxPool2d(2, output_size=5), nn.Dropout(), nn.Dropout2d(), nn.Flatten(),
        nn.PixelShuffle(2), nn.ChannelShuffle(2), nn.Unfold(3), nn.ZeroPad2d(1),
        nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.CircularPad2d(1),
        nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bicubic"), nn.Threshold(0, 1), nn.Softplus(),
        Of(lambda m, x: x.sort().values.cumsum(1).roll(1, 2).flip(3).where(x > 0, x)),
        Of(lambda m, x: F.grid_sample(x, x[:, 0, :, :2, None].expand(2, 12, 2, 2), **CORNERS)),
        Of(lambda m, x: torch.stack([x, x]).topk(2).values.std() + x.norm() + x.var()),
    ]  # fmt: skip
    for layer in layers:
        total = counts(layer, x).total
        assert (total.macs, total.unknown) == (0, ()), layer


def test_control_flow_that_depends_on_the_numbers():
    def forward(model, x):
        return model.layer(x) if x.mean().item() > 0 else model.layer(model.layer(x))

    net = Of(forward, layer=nn.Linear(WIDTH, WIDTH))
    assert counts(net, tokens().abs()).total.macs == LINEAR
    assert counts(net, -tokens().abs()).total.macs == 2 * LINEAR


def test_a_model_that_fails_on_its_input():
    for x in (torch.zeros(2, 5), (torch.zeros(2, 8), torch.zeros(2, 8)), {"y": torch.zeros(2, 8)}):
        with pytest.raises(ModelError, match="an input that Linear takes"):
            counts(nn.Linear(8, 3), x)
    with pytest.raises(ModelError, match=r"got no tensor but \(2, 8\), on which"):
        counts(nn.Linear(8, 3), (2, 8))  # a shape where a tensor belongs


def test_what_is_no_model_and_no_input():
    layer, x = nn.Linear(8, 3), torch.zeros(1, 8)
    with pytest.raises(StructureError, match="the class Linear; build it first"):
        counts(nn.Linear, x)
    with pytest.raises(StructureError, match=r"got 'net\.pt'"):
        counts("net.pt", x)
    for wrong in (None, (), [], {}, 3, "x", {3: x}):
        with pytest.raises(StructureError, match="a tensor, a tuple of arguments"):
            counts(layer, wrong)
    with pytest.raises(StructureError, match="call it once"):
        counts(nn.LazyLinear(3), x)


def test_inputs_by_name_and_outputs_of_any_form():
    @dataclass
    class Out:
        scores: Tensor
        maps: tuple

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, *, a, scale=1, b=None):
            return {"out": Out(self.layer(a) * scale, (b,)), "text": "no tensor", "none": None}

    x = tokens()
    assert counts(Net(), {"a": x, "scale": 2, "b": x}).total.macs == LINEAR
    assert [p for p, _ in tensors_of(Net()(a=x, b=x))] == ["out.scores", "out.maps.0"]
    silent = Of(lambda m, x: (m.layer(x), "text")[1], layer=nn.Linear(8, 8))
    assert counts(silent, x).total.macs == LINEAR
    assert Call.of(Net(), {"a": x, "b": x}).describe() == "a: 2x5x8 float32, b: 2x5x8 float32"


def test_a_failure_that_the_model_catches():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Linear(16, 8), nn.Linear(8, 8)

        def forward(self, x):
            try:
                return self.wide(x)
            except RuntimeError:
                return self.narrow(x) @ x.mT

    found = {row.name: row for row in counts(Tries(), tokens()).layers}
    assert found["narrow"].macs == LINEAR
    assert found[":matmul"].macs == BATCH * TOKENS * TOKENS * WIDTH


def test_parameters_that_the_call_does_not_use():
    net = Of(lambda m, x: m.used(x), used=nn.Linear(8, 3), spare=nn.Linear(8, 4))
    found = counts(net, tokens())
    row = found.layers[-1]
    assert (row.name, row.parameters, row.calls) == ("spare", 36, 0)
    assert row.note == "not used in this call"
    assert found.total.parameters == 27 + 36


def test_layers_in_a_plain_list():
    net = Of(lambda m, x: m.hidden[0](m.layer(x)), layer=nn.Linear(8, 8), hidden=[nn.Linear(8, 8)])
    found = counts(net, tokens())
    assert found.total.macs == 2 * LINEAR
    assert found.total.parameters == 72  # what model.parameters() gives
    assert any(row.note == "holds layers that are not registered" for row in found.layers)


def test_a_network_that_would_fill_the_memory():
    with torch.device("meta"):
        net = nn.Linear(1_000_000, 1_000_000)
    found = counts(net, torch.empty(1, 1_000_000, device="meta"))
    assert found.total.macs == 10**12

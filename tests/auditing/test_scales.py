"""Features over scales move along their scales when the picture changes its size."""

import copy

import pytest
import torch
from skimage import data
from torch import nn

import symconv as sc
from symconv.auditing.call import Call
from symconv.auditing.equivariance import measure
from symconv.auditing.equivariance.layout import Layout, LostError
from symconv.auditing.equivariance.moves import rescaling
from symconv.auditing.equivariance.scaling import along_scales, partners
from symconv.lattice.scales import Scales

CAMERA = torch.from_numpy(data.camera()[100:196, 150:246] / 255.0)[None, None]


def network(scales, interscale=1, pool=False):
    torch.manual_seed(0)
    hidden, last = scales.regular(4), scales.regular(3)
    lift = sc.nn.ScaleConv2d(scales.trivial(1), hidden, 5, padding_mode="reflect")
    mix = sc.nn.ScaleConv2d(hidden, last, 5, padding_mode="reflect", interscale=interscale)
    ends = [sc.nn.ScalePool(last)] if pool else []
    norm = sc.nn.FieldBatchNorm(hidden)
    return nn.Sequential(lift, norm, nn.ReLU(), mix, *ends).double().eval()


def rows_of(model, x=CAMERA):
    found = measure(Call.of(model, x))
    rows = [row for row in found.rows if row.transform.startswith("rescale")]
    return {row.layer: row for row in rows}


@pytest.mark.parametrize(
    ("scales", "name", "steps"),
    [
        (Scales(2.0, 3), "rescale 0.5", 1),
        (Scales(2**0.5, 5), "rescale 0.5", 2),
        (Scales(3.0, 2), "rescale 0.3333", 1),
        (Scales(2**0.5, 2), "rescale 0.7071", 1),
    ],
)
def test_layers_are_exact_and_the_network_is_nearly(scales, name, steps):
    """A layer alone is exact up to the border, where a faded picture has nothing."""
    rows = rows_of(network(scales))
    assert {row.transform for row in rows.values()} == {name}
    assert rows["0"].local_error < 1e-6, "lifting"
    assert rows["1"].local_error < 1e-9, "batch norm: an offset and a factor, and rounding"
    assert 1e-4 < rows["2"].local_error < 0.1, "the ReLU is what errs"
    assert rows["3"].local_error < 1e-5
    assert rows[""].error < 0.1
    assert f"{scales} move by {steps} scale{'s' if steps > 1 else ''}," in rows[""].note


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("scales", [Scales(2.0, 3), Scales(2**0.5, 5)], ids=str)
@pytest.mark.parametrize("size", [96, 88])
def test_strides_keep_the_centre(scales, stride, size):
    lift = sc.nn.ScaleConv2d(scales.trivial(1), scales.regular(2), 5, stride).double()
    rows = rows_of(lift, CAMERA[..., :size, :size])
    assert rows[""].error < 1e-10
    picked = nn.Sequential(lift, Every(2))  # negative control: off the centre
    assert rows_of(picked, CAMERA[..., :size, :size])[""].error > 0.01


class Every(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, x):
        return x[..., :: self.step, :: self.step]


def test_half_octaves_round_as_octaves_do():
    """Though the square of the root of 2 is not quite 2 in floating point."""
    octaves, halves = Scales(2.0, 3), Scales(2**0.5, 5)
    assert 2**0.5 * 2**0.5 != 2
    assert halves.sizes[::2] == octaves.sizes
    whole = sc.nn.ScaleConv1d(octaves.trivial(1), octaves.regular(1))
    half = sc.nn.ScaleConv1d(halves.trivial(1), halves.regular(1))
    for size in range(19, 130):
        assert half.grids((size,))[::2] == whole.grids((size,))


@pytest.mark.parametrize("size", [42, 43])
def test_sizes_that_round_apart_are_told(size):
    scales = Scales(2**0.5, 5)
    lift = sc.nn.ScaleConv2d(scales.trivial(1), scales.regular(2), 5).double()
    row = rows_of(lift, CAMERA[..., :size, :size])[""]
    assert (row.error > 0.01) == ("of 43 positions" in row.note) == (size == 43)


def test_pictures_too_small_to_be_halved_are_enlarged():
    rows = rows_of(network(Scales(2.0, 3)), CAMERA[..., 30:62, 30:62])
    assert rows["0"].transform == "rescale 2"
    assert rows["0"].local_error < 1e-3
    assert rows["3"].local_error < 1e-3
    assert 0 < rows[""].error < 0.1


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        for name, scales in (("one", Scales(2.0, 3)), ("two", Scales(2.0, 2))):
            layer = sc.nn.ScaleConv2d(
                scales.trivial(1), scales.regular(2), 5, padding_mode="reflect"
            )
            setattr(self, name, layer.double())

    def forward(self, x):
        return torch.cat([self.one(x), self.two(x)], 1)


def test_channels_of_which_nothing_is_known_are_not_judged():
    rows = rows_of(Branches())
    assert rows["one"].local_error < 1e-5
    assert rows["two"].local_error < 1e-5
    assert rows[""].error is None
    assert "what scales do to these channels is not known" in rows[""].note


@pytest.mark.parametrize("mixing", [nn.GroupNorm(1, 12), nn.Softmax(1)])
def test_what_mixes_scales_under_their_field_is_not_measured_on_invented_ones(mixing):
    model = network(Scales(2.0, 3))
    model.insert(3, mixing.double())
    rows = rows_of(model)
    assert rows["3"].local_error is None
    assert "joins scales" in rows["3"].note
    assert rows["2"].local_error > 1e-4, "ReLU mixes nothing, and is measured"


def test_scales_above_are_read_as_far_as_there_are_any():
    rows = rows_of(network(Scales(2.0, 3), interscale=2))
    assert rows["3"].local_error < 1e-5


def test_a_plain_network_is_broken():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 4, 7, padding=3), nn.ReLU(), nn.Conv2d(4, 3, 7, padding=3))
    rows = rows_of(plain.double())
    assert rows[""].verdict == "broken"
    assert rows[""].transform == "rescale 0.5"
    assert "scales" not in rows[""].note


@pytest.mark.parametrize("what", ["reversed", "one scale spoilt", "steps the other way"])
def test_planted_faults_are_found(what, monkeypatch):
    model = network(Scales(2.0, 3))
    sound = rows_of(copy.deepcopy(model))[""].error

    class Fault(nn.Module):
        def forward(self, x):
            copies = x.unflatten(1, (-1, 3))
            if what == "reversed":
                return copies.flip(2).flatten(1, 2)
            return (copies * torch.tensor([1.0, 1.5, 1.0])[:, None, None]).flatten(1, 2).to(x)

    if what == "steps the other way":
        used = measure.__globals__["rescaling"].__globals__["along_scales"].__globals__
        monkeypatch.setitem(used, "steps_of", lambda scales, factor: -1)
    else:
        model.insert(3, Fault())
    assert rows_of(model)[""].error > max(5 * sound, 0.15)


def test_what_joins_scales_is_not_measured_alone_but_with_the_rest():
    rows = rows_of(network(Scales(2.0, 3), pool=True))
    assert rows["4"].local_error is None
    assert "joins scales" in rows["4"].note
    assert rows["4"].error == rows[""].error is not None


def test_channels_without_a_partner_do_not_count():
    """The largest scale of what is half as large has none; values there are of no account."""
    scales = Scales(2.0, 3)
    field = scales.regular(2)
    layout = Layout.channels_first((1, 6, 8, 8), [1, 1], field)
    x = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    moved = rescaling(0.5, scales).on(x, layout, 2)
    expected = sc.rescale(x, 0.5)
    assert torch.allclose(moved[:, [0, 1, 3, 4]], expected[:, [1, 2, 4, 5]], atol=1e-12)
    assert not moved[:, [2, 5]].any()
    assert partners(field, 0.5).tolist() == [True, True, False] * 2
    assert partners(field, 4).tolist() == [False, False, True] * 2
    assert partners(scales.trivial(3), 0.5) is None


def test_what_has_no_partner_at_all_is_not_called_exact():
    field, x = Scales(2.0, 3).regular(1), torch.zeros(1, 3, 4, 4)
    with pytest.raises(LostError, match=r"0\.3 is no whole number of steps"):
        along_scales(x, 1, field, 0.3)
    with pytest.raises(LostError, match=r"0\.125 is more than all steps"):
        along_scales(x, 1, field, 0.125)
    with pytest.raises(LostError, match="on 4 channels"):
        along_scales(torch.zeros(1, 4), 1, field, 0.5)


def test_the_audit_of_a_scale_network_is_the_same_before_and_after_a_call():
    """Resampling matrices are kept, but not those of the audit's stand-ins; MACs are the call's."""
    model, x = network(Scales(1.9, 3), pool=True), torch.rand(1, 1, 43, 43, dtype=torch.float64)
    first = sc.audit(model, x)
    assert type(model(x)) is torch.Tensor
    again = sc.audit(model, x)
    assert first.total.macs == again.total.macs > 0
    assert first.equivariance == again.equivariance is not None

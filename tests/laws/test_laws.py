"""Every layer obeys every law, over random shapes and arguments in 1-D, 2-D and 3-D."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, reject

from laws import laws
from laws.cases import DIMENSIONS, EVERY_LAYER, Case, draw_case, integers, layer_class
from symconv import Structure, translate
from symconv.lattice import orbits

every_layer = pytest.mark.parametrize(("family", "dimension"), EVERY_LAYER)


@every_layer
@given(data=st.data())
def test_forward_equals_the_materialised_matrix(family, dimension, data):
    laws.equals_its_matrix(draw_case(data, family, dimension))


@every_layer
@given(data=st.data())
def test_linear_with_the_right_adjoint(family, dimension, data):
    laws.is_linear(draw_case(data, family, dimension))


@every_layer
@given(data=st.data())
def test_first_and_second_derivatives(family, dimension, data):
    laws.has_right_derivatives(draw_case(data, family, dimension))


@pytest.mark.parametrize("dimension", DIMENSIONS)
@given(data=st.data())
def test_tiled_layers_commute_with_translations_by_the_tile_exactly(dimension, data):
    def draw(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(dimension))

    tile, stride, kernel = draw(1, 3), draw(1, 2), draw(1, 3)
    period = [t * s for t, s in zip(tile, stride, strict=True)]
    size = tuple(p * c for p, c in zip(period, draw(1, 2), strict=True))
    # circular padding, output size S / stride: the kernel's reach is k - 1 in all
    padding = tuple((k - 1) // 2 for k in kernel)
    if any((s + 2 * p - k) // step + 1 != s // step or p > s
           for s, p, k, step in zip(size, padding, kernel, stride, strict=True)):  # fmt: skip
        reject()
    layer = layer_class("TiledConv", dimension)(
        2, 3, kernel, tile, stride=stride, padding=padding, padding_mode="circular"
    ).double()
    case = Case(layer, (2, *size)).with_weights_drawn_from(integers)
    x = integers((2, 2, *size))
    times = draw(-2, 2)
    shift_in = tuple(n * p for n, p in zip(times, period, strict=True))
    shift_out = tuple(n * t for n, t in zip(times, tile, strict=True))
    moved_first = layer(translate(x, shift_in))
    assert torch.equal(moved_first, translate(layer(x), shift_out)), case


@pytest.mark.parametrize("family", ["local", "region", "tiled", "conv"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
@given(data=st.data())
def test_weights_are_the_orbits_of_connections_under_the_symmetry(family, dimension, data):
    """Law 4: the index arithmetic that law 1 holds the layers to equals the orbits."""
    wiring = draw_case(data, family, dimension).structure().wiring
    locations = int(np.prod(wiring.output_shape[1:]))
    taps = locations * wiring.window.taps * wiring.block * wiring.out_channels
    found = orbits(taps, wiring.generators())
    label, rest = wiring.labels().reshape(-1, 1), np.arange(taps // locations)
    stated = (label * rest.size + rest).ravel()
    pairs = set(zip(found.weight.tolist(), stated.tolist(), strict=True))
    assert len(pairs) == found.count == len(set(stated.tolist()))
    assert (found.sign == 1).all()


@pytest.mark.parametrize("family", ["local", "region", "tiled"])
@given(data=st.data())
def test_one_dimension_equals_two_with_a_singleton_axis(family, data):
    case = draw_case(data, family, 1)
    narrow = case.layer
    axis = data.draw(st.sampled_from([2, 3]))
    at = axis - 2

    def widen(value, fill):
        value = tuple(value) if isinstance(value, (tuple, list, torch.Size)) else (value,)
        return (*value[:at], fill, *value[at:])

    window = narrow.window
    options = dict(groups=narrow.groups, bias=narrow.bias is not None, dtype=torch.float64)
    (before, after), *_ = window.padding
    if before != after:  # one-sided: only "same" says it, and says it for both axes
        options |= dict(padding="same")
    else:
        options |= dict(padding=widen(before, 0))
    options |= dict(stride=widen(window.stride, 1), dilation=widen(window.dilation, 1),
                    padding_mode=window.padding_mode)  # fmt: skip
    third = {
        "local": lambda: widen(case.size, 1),
        "region": lambda: narrow.regions.unsqueeze(at),
        "tiled": lambda: widen(narrow.tile, 1),
    }[family]()
    name = type(narrow).__name__.replace("1d", "")
    wide = layer_class(name, 2)(
        narrow.in_channels, narrow.out_channels, widen(window.kernel_size, 1), third, **options
    )
    with torch.no_grad():
        for mine, theirs in zip(wide.parameters(), narrow.parameters(), strict=True):
            mine.copy_(theirs.reshape(mine.shape))
    laws.flattened_axis_agrees(case, Case(wide, case.shape), axis)


def test_structure_of_a_layer_is_its_own_structure():
    layer = layer_class("TiledConv", 2)(2, 4, 3, 2, padding=1)
    one, other = Structure.of(layer, (6, 6)), layer.structure((6, 6))
    assert one.counts() == other.counts()
    assert one.kind == other.kind == "tiled"


ARRANGED = {
    "as it is": lambda x: x,
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every other": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "expanded": lambda x: x[:1].expand(x.shape),
}


@every_layer
@given(data=st.data())
def test_the_path_in_use_gives_what_plain_torch_gives(family, dimension, data):
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    arrange = ARRANGED[data.draw(st.sampled_from(sorted(ARRANGED)))]
    laws.path_agrees_with_reference(draw_case(data, family, dimension), dtype, arrange)

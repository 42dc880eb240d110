"""Group convolution: exact equivariance, counts, an independent definition, torch's machinery."""

import copy
import itertools
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import symconv as sc
from symconv.kernels.tied import reference_spread, source_of, spread
from symconv.lattice import Group, Window, filter_orbits
from symconv.lattice.windows import PADDING_MODES
from symconv.testing import assert_equivariant, assert_matches_structure

LAYER = {1: sc.nn.GroupConv1d, 2: sc.nn.GroupConv2d, 3: sc.nn.GroupConv3d}
TRANSPOSE = {
    1: sc.nn.GroupConvTranspose1d,
    2: sc.nn.GroupConvTranspose2d,
    3: sc.nn.GroupConvTranspose3d,
}
EVERY_GROUP = ["mirror", "trivial(1)", "C1", "C2", "C4", "D1", "D2", "D4", "flip(2,0)", "B2",
               "O", "Oh", "B3", "flip(3,1)"]  # fmt: skip
parse = sc.groups.parse
C4, D4 = parse("C4"), parse("D4")


def kinds(group):
    """A field of each kind, and a sum."""
    sum_ = group.trivial(1) + group.vector(1) + group.regular(1)
    quotient = group.quotient(group.subgroup([group.order - 1]), 1)
    return [group.trivial(2), group.sign(1), group.vector(1), group.regular(1), quotient, sum_]


def integers_(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-4, 5, parameter.shape))
    return module


# Law 3: equivariance, to the last bit


@pytest.mark.parametrize("name", EVERY_GROUP)
def test_every_pair_of_fields_is_exactly_equivariant(name):
    group = parse(name)
    n = group.dimension
    large = group.order > 8
    for into, out in itertools.product(kinds(group), repeat=2):
        if large and into.channels * out.channels > 300:
            continue
        for kernel in (2, 3) if not large else (2,):
            layer = LAYER[n](into, out, kernel, padding=kernel // 2)
            if not layer.weight.numel() and layer.bias is None:
                continue  # the symmetry leaves nothing free: the layer is zero
            size = (5, 4, 3)[:n] if not large else (3, 2, 4)
            assert_equivariant(layer, into, out, size, batch=1, integers=True)


@st.composite
def layers(draw, transposed=False):
    """A random layer whose sampling grid is centred, and a size."""
    group = parse(draw(st.sampled_from(["mirror", "C2", "C4", "D1", "D2", "D4", "flip(3,1)"])))
    n = group.dimension
    blocks = draw(st.sampled_from([1, 1, 2]))
    make = [group.trivial, group.sign, group.vector, group.regular]
    into, out = (draw(st.sampled_from(make))(blocks * draw(st.integers(1, 2))) for _ in "io")
    if blocks == 1 and draw(st.booleans()):
        into = into + draw(st.sampled_from(make))(1)
    same = not group.keeps(range(n))

    def per_axis(low, high):
        values = [draw(st.integers(low, high)) for _ in range(n)]
        return tuple(values[:1] * n if same else values)

    kernel, stride, dilation = per_axis(1, 4), per_axis(1, 3), per_axis(1, 2)
    padding = per_axis(0, 2)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    mode = "zeros" if transposed else draw(st.sampled_from(PADDING_MODES))
    outputs = [draw(st.integers(1, 3)) for _ in range(n)]
    rows = zip(outputs, stride, extent, padding, strict=True)
    least = [(o - 1) * s + e - 2 * p for o, s, e, p in rows]
    size = tuple(v + s * max(0, -(-(3 - v) // s)) for v, s in zip(least, stride, strict=True))
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=blocks)
    if not transposed:
        options["padding_mode"] = mode
    layer = (TRANSPOSE if transposed else LAYER)[n](into, out, kernel, **options)
    return layer.double(), size


@given(layers())
def test_strides_dilations_blocks_and_padding_modes(drawn):
    layer, size = drawn
    assert_equivariant(layer, layer.in_field, layer.out_field, size, integers=True, batch=1)
    assert_matches_structure(layer, size)


@given(layers(transposed=True))
def test_transposes(drawn):
    layer, size = drawn
    try:
        layer.structure(size)
    except sc.StructureError:  # padding leaves nothing
        return
    assert_equivariant(layer, layer.in_field, layer.out_field, size, integers=True, batch=1)
    assert_matches_structure(layer, size)


def test_stacks_of_layers_stay_exact():
    net = nn.Sequential(
        sc.nn.GroupConv2d(D4.trivial(1), D4.regular(2), 3, padding=1), nn.ReLU(),
        sc.nn.GroupConv2d(D4.regular(2), D4.regular(2), 2, stride=2), nn.ReLU(),
        sc.nn.GroupConv2d(D4.regular(2), D4.vector(2), 3, padding="same"),
        sc.nn.GroupConvTranspose2d(D4.vector(2), D4.trivial(3), 2, stride=2),
    )  # fmt: skip
    for size in ((8, 8), (6, 10)):
        assert_equivariant(net.double(), D4.trivial(1), D4.trivial(3), size, integers=True)
    broken = copy.deepcopy(net)
    broken[2] = broken[2].to_conv()
    with torch.no_grad():
        broken[2].weight[0, 0, 0, 0] += 1
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(broken, D4.trivial(1), D4.trivial(3), 8)


# Laws 4 and 1: counts


@given(layers())
def test_free_weights_are_burnsides_and_counts_are_the_matrix(drawn):
    layer, size = drawn
    blocks = layer.groups
    pair = filter_orbits(
        layer.in_field.split(blocks), layer.out_field.split(blocks), layer.kernel_size
    )
    assert layer.weight.numel() == blocks * pair.count == layer.structure(size).parameters
    structure = layer.structure(size)
    pairs = structure.weight_ids()
    distinct = np.unique(pairs.output * structure.inputs + pairs.input)
    assert structure.connections == distinct.size
    if distinct.size:
        assert structure.fan_in == np.bincount(distinct // structure.inputs).max()
        assert structure.transpose().fan_in == np.bincount(distinct % structure.inputs).max()
    plain = sc.Structure.of(layer.to_conv(), size)
    assert (structure.macs, structure.padding_macs) == (plain.macs, plain.padding_macs)


def test_weights_of_all_cnn_c():
    """Cohen and Welling (2016): 1.37 M, 1.37 M and 1.22 M weights."""

    def weights(group, *widths):
        first, second = widths
        sizes = [(3, first), (first, first), (first, first), (first, second), (second, second),
                 (second, second), (second, second), (second, second), (second, 10)]  # fmt: skip
        kernels = [3] * 7 + [1, 1]
        total = 0
        for place, ((into, out), kernel) in enumerate(zip(sizes, kernels, strict=True)):
            into_field = group.trivial(into) if place == 0 else group.regular(into)
            layer = sc.nn.GroupConv2d(into_field, group.regular(out), kernel, bias=False)
            total += layer.weight.numel()
        return total

    assert weights(parse("C1"), 96, 192) == 1_368_480
    assert weights(C4, 48, 96) == 1_369_104
    assert weights(D4, 32, 64) == 1_218_400


# Law 6: the published definition, as slow loops over turned filters


def gather_filters(weight, turns, regular_input):
    """The filter bank of a p4 layer by rot90 of each filter: (out, 4, in, 4 or 1, k, k)."""
    out, into = weight.shape[:2]
    k = weight.shape[-1]
    bank = torch.zeros(out, 4, into, 4 if regular_input else 1, k, k, dtype=weight.dtype)
    for o, r, i in itertools.product(range(out), range(turns), range(into)):
        for s in range(bank.shape[3]):
            source = weight[o, i, (s - r) % 4] if regular_input else weight[o, i, 0]
            bank[o, r, i, s] = torch.rot90(source, r, (-2, -1))
    return bank.reshape(out * 4, -1, k, k)


@pytest.mark.parametrize("regular", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_published_p4_convolution(regular, k):
    """[f * psi](r t) = sum over y, h of f(y, h) psi(r^-1 (y - t), r^-1 h), section 4 and 6."""
    into = C4.regular(2) if regular else C4.trivial(2)
    layer = sc.nn.GroupConv2d(into, C4.regular(3), k, bias=False).double()
    weight = torch.randn(3, 2, 4 if regular else 1, k, k, dtype=torch.float64)
    bank = gather_filters(weight, 4, regular)
    x = torch.randn(2, into.channels, 6, 7, dtype=torch.float64)
    published = nn.functional.conv2d(x, bank)
    # read the free weights off the published filter, and give them to the layer
    pair = layer._filter.orbits
    with torch.no_grad():
        layer.weight[torch.from_numpy(pair.weight)] = bank.flatten()
    assert layer.weight.numel() == weight.numel()
    assert torch.equal(layer.filter(), bank)
    assert torch.allclose(layer(x), published, rtol=0, atol=1e-12)


def test_the_published_definition_tells_a_wrong_turn():
    """Negative control: filters turned the other way do not fit the free weights."""
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(1), 3, bias=False)
    bank = gather_filters(torch.randn(1, 1, 1, 3, 3), 4, False).flip(0)
    with torch.no_grad():
        layer.weight[torch.from_numpy(layer._filter.orbits.weight)] = bank.flatten()
    assert not torch.equal(layer.filter(), bank)


def test_one_dimension_is_two_with_an_axis_of_one():
    mirror, flip = parse("mirror"), parse("flip(2,1)")
    narrow = sc.nn.GroupConv1d(mirror.regular(2), mirror.sign(3), 3, padding=1).double()
    wide = sc.nn.GroupConv2d(flip.regular(2), flip.sign(3), (1, 3), padding=(0, 1)).double()
    wide.load_state_dict(narrow.state_dict())
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    assert torch.allclose(wide(x.unsqueeze(2)).squeeze(2), narrow(x), rtol=0, atol=1e-12)


# The primitive


@pytest.mark.parametrize("group", [C4, D4, parse("D1")])
def test_spread_against_its_reference(group):
    for into, out in itertools.product(kinds(group)[:-1], repeat=2):
        orbits = filter_orbits(into, out, (3, 3))
        source, signed = (
            torch.from_numpy(source_of(orbits, out.channels)),
            bool((orbits.sign <= 0).any()),
        )
        weight = torch.randn(2, 3, orbits.count, dtype=torch.float64)
        expected = reference_spread(weight, orbits, out.channels)
        assert torch.equal(spread(weight, source, signed), expected)
        if signed and orbits.count and (orbits.sign < 0).any():  # negative control
            wrong = source.clone()
            wrong[source == 2 * orbits.count] = 0
            wrong[(source >= orbits.count) & (source < 2 * orbits.count)] -= orbits.count
            assert not torch.equal(spread(weight, wrong, signed), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, forward mode
@pytest.mark.parametrize("transposed", [False, True])
def test_derivatives(transposed):
    into, out = D4.trivial(1) + D4.regular(1), D4.vector(1) + D4.trivial(1)
    layer = (TRANSPOSE if transposed else LAYER)[2](into, out, 3, padding=1).double()
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    x = torch.randn(1, into.channels, 4, 3, dtype=torch.float64, requires_grad=True)

    def forward(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(forward, (x, *values), fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(forward, (x, *values), fast_mode=True)


def test_vmap_over_weights():
    layer = sc.nn.GroupConv2d(D4.trivial(2), D4.vector(1), 3)
    weights, x = torch.randn(3, *layer.weight.shape), torch.randn(2, 2, 5, 5)

    def call(weight):
        return torch.func.functional_call(layer, {"weight": weight}, x)

    stacked = torch.vmap(call)(weights)
    for one, weight in zip(stacked, weights, strict=True):
        assert torch.allclose(one, call(weight), atol=1e-5)


# Bias and initial values


def test_bias_only_where_a_vector_is_invariant():
    assert sc.nn.GroupConv2d(D4.trivial(1), D4.regular(4), 3).bias.shape == (4,)
    assert sc.nn.GroupConv2d(D4.trivial(1), D4.quotient("C4", 4), 3).bias.shape == (4,)
    assert sc.nn.GroupConv2d(C4.trivial(1), C4.sign(4), 3).bias.shape == (4,)  # no sign in C4
    assert sc.nn.GroupConv2d(D4.trivial(1), D4.vector(4), 3).bias is None
    sum_ = D4.vector(1) + D4.trivial(2) + D4.regular(1)
    layer = sc.nn.GroupConv2d(D4.trivial(1), sum_, 3)
    assert layer.bias.shape == (3,)
    assert (layer.full_bias()[:2] == 0).all()
    assert (layer.full_bias()[4:] == layer.bias[2]).all()
    assert sc.nn.GroupConv2d(D4.trivial(1), sum_, 3, bias=False).bias is None
    with pytest.raises(sc.StructureError, match=r"invariant vector.*D4.sign"):
        sc.nn.GroupConv2d(D4.trivial(1), D4.sign(1), 3, bias=True)


def test_initial_values_are_those_of_a_plain_convolution():
    torch.manual_seed(0)
    layer = sc.nn.GroupConv2d(C4.regular(16), C4.regular(16), 3)
    plain = nn.Conv2d(64, 64, 3)
    bound = 1 / (64 * 9) ** 0.5
    assert layer.weight.abs().max() <= bound
    assert abs(layer.filter().std() / plain.weight.std() - 1) < 0.05
    assert layer.bias.abs().max() <= bound
    x = torch.randn(4, 64, 12, 12)
    assert abs(layer(x).std() / plain(x).std() - 1) < 0.1
    # forced zeros are no fan-in: the output of a signed layer is as large as any other's
    signed = sc.nn.GroupConv2d(D4.vector(32), D4.vector(32), 3, bias=False)
    free = nn.Conv2d(64, 64, 3, bias=False)
    assert abs(signed(x).std() / free(x).std() - 1) < 0.15
    first = layer.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(first, layer.weight)


@given(layers())
@settings(max_examples=10)
def test_to_conv_for_every_argument(drawn):
    layer, size = drawn
    x = torch.randn(2, layer.in_channels, *size, dtype=torch.float64)
    assert torch.equal(layer.to_conv()(x), layer(x))


# Where the sampling grid is off-centre


def test_off_centre_sizes_warn_once_with_the_size_that_is_exact():
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(2), 3, stride=2, padding=1)
    with pytest.warns(sc.nn.OffCentreWarning, match=r"\(33, 33\) or \(31, 31\)"):
        layer(torch.zeros(1, 1, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.zeros(1, 1, 34, 34))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AssertionError, match="not equivariant"):
            assert_equivariant(layer, C4.trivial(1), C4.regular(2), 32)
    for size in (33, 31, (31, 33)):
        assert_equivariant(layer, C4.trivial(1), C4.regular(2), size, integers=True)


def test_groups_that_reverse_no_axis_need_no_centre():
    swap = Group("swap", [np.array([[0, 1], [1, 0]])], 2)
    layer = sc.nn.GroupConv2d(swap.trivial(1), swap.regular(2), 2, stride=2, padding="valid")
    assert_equivariant(layer, swap.trivial(1), swap.regular(2), (5, 7), integers=True)
    free = parse("flip(2,0)")
    layer = sc.nn.GroupConv2d(free.trivial(1), free.sign(2), (3, 2), padding="same")
    assert_equivariant(layer, free.trivial(1), free.sign(2), (4, 4), integers=True)
    layer = sc.nn.GroupConvTranspose2d(
        free.trivial(1), free.regular(1), (3, 2), stride=(1, 2), output_padding=(0, 1)
    )
    assert_equivariant(layer, free.trivial(1), free.regular(1), (4, 4), integers=True)


def test_align_pads_to_a_centred_grid():
    layer = sc.nn.GroupConv2d(D4.trivial(1), D4.regular(1), 3, stride=3, align=True)
    for size in (9, 10, (10, 7)):
        assert_equivariant(layer, D4.trivial(1), D4.regular(1), size, integers=True)
        assert_matches_structure(layer, size)
    x = torch.randn(1, 1, 10, 10)
    assert layer(x).shape == (1, 8, 4, 4)
    assert torch.equal(layer.to_conv(input_size=10)(x), layer(x))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), layer(x), atol=1e-6)
    with pytest.raises(sc.StructureError, match="input_size"):
        layer.to_conv()
    odd = sc.nn.GroupConv2d(D4.trivial(1), D4.regular(1), 3, stride=2, align=True)
    with pytest.raises(sc.StructureError, match="other parity"):
        odd(torch.zeros(1, 1, 32, 32))
    even = sc.nn.GroupConv2d(D4.trivial(1), D4.regular(1), 4, stride=2, align=True)
    assert_equivariant(even, D4.trivial(1), D4.regular(1), (32, 6), integers=True)


# Faces and bad input


@given(layers())
def test_repr_can_be_pasted_back(drawn):
    layer, _ = drawn
    group = layer.in_field.group
    plain = repr(group)
    names = {plain: group, "flip": sc.groups.flip, type(layer).__name__: type(layer)}
    again = eval(repr(layer), names)
    assert repr(again) == repr(layer)
    assert again.weight.shape == layer.weight.shape


def test_repr_of_options():
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(8), 3, padding=1)
    assert repr(layer) == "GroupConv2d(C4.trivial(1), C4.regular(8), kernel_size=3, padding=1)"
    layer = sc.nn.GroupConvTranspose1d(
        parse("mirror").regular(2), parse("mirror").sign(2), 4, stride=2, padding=1, groups=2
    )
    assert repr(layer) == (
        "GroupConvTranspose1d(mirror.regular(2), mirror.sign(2), kernel_size=4, stride=2, "
        "padding=1, groups=2)"
    )
    layer = sc.nn.GroupConv2d(
        C4.trivial(1), C4.regular(8), 3, bias=False, padding="same", align=True
    )
    assert repr(layer).endswith("kernel_size=3, padding='same', align=True, bias=False)")


def test_structure_names_its_kind_and_draws():
    layer = sc.nn.GroupConv2d(D4.vector(1), D4.sign(1), 3, padding=1)
    assert repr(layer.structure((5, 6))) == "Structure(group conv, (2, 5, 6) -> (1, 5, 6))"
    assert layer.structure((64, 64))._repr_html_().startswith("<table>")
    up = sc.nn.GroupConvTranspose2d(D4.vector(1), D4.sign(1), 2, stride=2)
    assert sc.Structure.of(up, (3, 3)).kind == "group conv transposed"
    window = Window.of(2, 1)
    nothing = sc.Structure.group_conv(D4.trivial(1), D4.sign(1), window, (3, 3))
    assert (nothing.parameters, nothing.connections, nothing.sharing) == (0, 0, 0.0)
    empty = sc.nn.GroupConv2d(D4.trivial(1), D4.sign(1), 1)
    assert (empty(torch.ones(1, 1, 3, 3, requires_grad=True)) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((C4.trivial(1), D4.regular(1), 3), {}, "one group.*restrict"),
        ((3, C4.regular(1), 3), {}, "in_field as a field"),
        ((C4.trivial(0), C4.regular(1), 3), {}, "in_field as a field"),
        ((parse("O").trivial(1), parse("O").trivial(1), 3), {}, "2 axes of space"),
        ((C4.trivial(1), C4.regular(1), (3, 5)), {}, "equal kernel_size.*exchanges"),
        ((C4.trivial(1), C4.regular(1), 3), {"stride": (1, 2)}, "equal stride"),
        ((C4.trivial(1), C4.regular(1), 3), {"dilation": (1, 2)}, "equal dilation"),
        ((C4.trivial(1), C4.regular(1), 3), {"padding": (1, 2)}, "equal padding"),
        ((C4.trivial(1), C4.regular(1), 2), {"padding": "same"}, "both ends of axis 0"),
        ((C4.trivial(1), C4.regular(1), 3), {"padding_mode": "odd"}, "padding_mode in"),
        ((C4.trivial(1), C4.regular(2), 3), {"groups": 2}, "2 equal blocks"),
        ((C4.trivial(1), C4.regular(2), 3), {"groups": 0}, "groups"),
        ((D4.trivial(1), D4.vector(2), 3), {"bias": True}, "a bias would break the symmetry"),
        ((C4.trivial(1), C4.regular(1), 0), {}, "kernel_size"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, options, message):
    with pytest.raises(sc.StructureError, match=message):
        sc.nn.GroupConv2d(*arguments, **options)


def test_bad_arguments_of_the_transpose():
    make = sc.nn.GroupConvTranspose2d
    with pytest.raises(sc.StructureError, match="output_padding 0 on the axes that C4 reverses"):
        make(C4.trivial(1), C4.regular(1), 3, stride=2, output_padding=1)
    with pytest.raises(sc.StructureError, match="padding_mode"):
        make(C4.trivial(1), C4.regular(1), 3, padding_mode="circular")
    free = parse("flip(2,0)")
    with pytest.raises(sc.StructureError, match="below stride"):
        make(free.trivial(1), free.trivial(1), 3, stride=2, output_padding=(0, 2))


def test_bad_inputs():
    layer = sc.nn.GroupConv2d(C4.regular(2), C4.regular(1), 3)
    with pytest.raises(sc.StructureError, match=r"8 channels \(C4.regular\(2\)\)"):
        layer(torch.zeros(1, 2, 5, 5))
    with pytest.raises(sc.StructureError, match=r"\(N, 8, H, W\)"):
        layer(torch.zeros(5, 5))


def test_pointwise_nonlinearities_on_signed_fields():
    check = sc.nn.check_pointwise
    regular, vector = D4.regular(2), D4.vector(2)
    for odd in (nn.Tanh(), nn.Identity(), nn.Hardtanh(), nn.Softsign()):
        check(odd, vector)
    for lopsided in (nn.ReLU(), nn.GELU(), nn.Hardtanh(0, 1), nn.PReLU(), nn.Sigmoid()):
        check(lopsided, regular)
        check(lopsided, C4.sign(1))
        with pytest.raises(sc.StructureError, match=r"D4.vector\(2\)"):
            check(lopsided, vector)
    with pytest.raises(sc.StructureError, match="one slope"):
        check(nn.PReLU(16), regular)
    check(nn.PReLU(16), D4.trivial(16))
    relu = nn.ReLU()
    net = nn.Sequential(sc.nn.GroupConv2d(vector, regular, 3), relu)
    check(net, vector)
    net.append(sc.nn.GroupConv2d(regular, vector, 3)).append(relu)
    with pytest.raises(sc.StructureError, match="at '3'"):
        check(net, vector)

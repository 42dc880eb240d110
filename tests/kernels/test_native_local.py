"""The compiled local kernels against plain torch in double precision, on every instruction set."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import symconv as sc
from symconv.errors import StructureError
from symconv.kernels import native, path
from symconv.kernels.local import local_correlation
from symconv.kernels.native import local as compiled
from symconv.kernels.plain import local as plain
from symconv.kernels.workspace import output_size

pytestmark = pytest.mark.skipif(not native.SET, reason=f"no compiled kernels: {native.WHY_NOT}")

SETS = native._cpu.instruction_sets() if native.SET else []
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2}


@st.composite
def problems(draw, dtypes=tuple(TOLERANCE)):
    """Operands and geometry of all three operators, with channels and batches off the vectors."""
    n, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    batch = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 24, 33]))
    c, o = (draw(st.sampled_from(v)) for v in ([1, 2, 3, 5, 8], [1, 2, 3, 7, 8, 12, 16, 17, 33]))

    def per_axis(*values):
        return [draw(st.sampled_from(values)) for _ in range(n)]

    kernel, stride, dilation = per_axis(1, 2, 3), per_axis(1, 1, 2, 3), per_axis(1, 1, 2)
    padding = per_axis(0, 0, 1, 2) + per_axis(0, 0, 1, 2)
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [e + draw(st.integers(0, {1: 19, 2: 10, 3: 4}[n])) for e in extents]
    out = output_size(size, kernel, stride, padding, dilation)
    positions = int(torch.tensor(out).prod())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from(dtypes))

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    labels, filters = None, positions
    if draw(st.booleans()):
        filters = max(1, positions // 3)
        labels = torch.randint(filters, (positions,), generator=generator)
    x, y = normal(batch, groups * c, *size), normal(batch, groups * o, *out)
    weight, bias = normal(filters, *kernel, c, groups * o), normal(groups * o, *out)
    if draw(st.booleans()):
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x, y, weight, bias if draw(st.booleans()) else None, labels, (
        stride, padding, dilation, groups
    )  # fmt: skip


def results(kernels, problem, to=lambda t: t):
    x, y, weight, bias, labels, geometry = problem
    x, y, weight = to(x), to(y), to(weight)
    bias = None if bias is None else to(bias)
    return (
        kernels.forward(x, weight, bias, labels, *geometry),
        kernels.adjoint(y, weight, labels, x.shape[2:], *geometry),
        kernels.weight_gradient(x, y, labels, weight.shape, *geometry),
    )


def check(problem):
    exact = results(plain, problem, torch.Tensor.double)
    for name, got, wanted in zip("yxw", results(compiled, problem), exact, strict=True):
        assert got.shape == wanted.shape
        error = (got.double() - wanted).abs().max().item()
        scale = max(1e-3, wanted.abs().max().item())
        assert error <= TOLERANCE[got.dtype] * scale, f"{name}: {error / scale:.1e}"


@pytest.mark.parametrize("instruction_set", SETS)
@settings(max_examples=80)
@given(problem=problems())
def test_operators_equal_plain_torch(instruction_set, problem):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "SET", instruction_set)
        check(problem)


def test_a_wrong_stride_would_be_seen(monkeypatch):
    numbers = compiled._numbers

    def wrong(*args):
        found = numbers(*args)
        found[-1] += 1  # the channel stride of y
        return found

    torch.manual_seed(0)
    x, y, weight = torch.randn(2, 3, 6), torch.randn(2, 4, 4), torch.randn(4, 3, 3, 4)
    problem = x, y, weight, None, None, ([1], [0, 0], [1], 1)
    check(problem)
    monkeypatch.setattr(compiled, "_numbers", wrong)
    monkeypatch.setattr(native, "empty", lambda like, shape: like.new_zeros(50)[:32].view(shape)
                        if list(shape) == [2, 4, 4] else like.new_empty(shape))  # fmt: skip
    with pytest.raises(AssertionError, match="y: "):
        check(problem)


@settings(max_examples=40)
@given(problem=problems(dtypes=(torch.float32,)))
def test_results_do_not_depend_on_the_number_of_threads(problem):
    """Not in a single bit."""
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(results(compiled, problem))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert torch.equal(mine, theirs)


@settings(max_examples=40)
@given(problem=problems())
def test_every_entry_of_a_result_is_written(problem):
    def full_of_nan(like, shape):
        return like.new_full(shape, torch.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "empty", full_of_nan)
        for found in results(compiled, problem):
            assert not found.isnan().any()


@given(
    batch=st.sampled_from([1, 3, 9]),
    where=st.integers(0, 6),
    bad=st.sampled_from([torch.nan, torch.inf]),
)
def test_values_that_are_not_finite_reach_only_what_sees_them(batch, where, bad):
    torch.manual_seed(0)
    x, weight = torch.randn(batch, 2, 7), torch.randn(7, 3, 2, 5)
    geometry = [1], [1, 1], [1], 1
    before = compiled.forward(x, weight, None, None, *geometry)
    x[batch // 2, 0, where] = bad
    after = compiled.forward(x, weight, None, None, *geometry)
    reached = torch.zeros_like(after, dtype=torch.bool)
    reached[batch // 2, :, max(0, where - 1) : where + 2] = True
    assert torch.equal(~after.isfinite(), reached)
    assert torch.equal(after[~reached], before[~reached])


def test_large_results_lie_in_kept_memory_and_live_on():
    """Memory given back is used again, never while a tensor still lies in it."""
    layer = sc.nn.LocallyConnected2d(8, 16, 3, 32, padding=1)
    x = torch.randn(2, 8, 32, 32)
    held = []
    for _ in range(4):
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()
        held.append((layer.weight.grad, layer.weight.grad.clone()))
    for gradient, copy in held:
        assert torch.equal(gradient, copy)


def test_memory_is_kept_within_the_most_in_use_and_can_be_released():
    def taken(*sizes):
        return [native.empty(torch.zeros(1), (size << 18,)) for size in sizes]  # MiB

    sc.kernels.release()
    assert native._cpu.kept_bytes() == 0
    first = taken(8, 4)
    places = sorted(t.data_ptr() for t in first)
    del first
    assert native._cpu.kept_bytes() == 12 << 20
    again = taken(8, 4)
    assert sorted(t.data_ptr() for t in again) == places
    del again
    larger = taken(10)  # no block fits: the kept ones make room for it
    assert native._cpu.kept_bytes() + (10 << 20) <= 12 << 20
    del larger
    for _ in range(300):  # nobody wants the large block
        taken(2)
    assert native._cpu.kept_bytes() == 2 << 20
    sc.kernels.release()
    assert native._cpu.kept_bytes() == 0


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_gradients_to_shared_filters_hold_a_copy_of_input_and_output(channels):
    x, y = torch.ones(8, 2, 128, 128), torch.ones(8, channels, 128, 128)
    labels = torch.zeros(128 * 128, dtype=torch.int64)
    steps = [1, 1], [1] * 4, [1, 1], 1
    sc.kernels.release()
    compiled.weight_gradient(x, y, labels, [1, 3, 3, 2, channels], *steps)
    # The scratch of the call is what is kept now: whole huge pages, and tables.
    assert native._cpu.kept_bytes() <= 4 * (x.numel() + y.numel()) * 1.05 + (3 << 20)


@pytest.mark.parametrize("bad", [-1, 4])
def test_labels_beyond_the_filters_are_refused(bad):
    labels = torch.tensor([0, 1, bad, 3])
    with pytest.raises(StructureError, match=r"labels in 0\.\.3"):
        compiled.forward(
            torch.ones(1, 1, 4), torch.ones(4, 1, 1, 1), None, labels, [1], [0, 0], [1], 1
        )


def test_sizes_beyond_64_bits_are_refused():
    with pytest.raises(StructureError, match="fewer than"):
        compiled._numbers(
            1, (1, 1, 1, 1), [2**62], [1], ([1], [2**62, 0], [1], 1), (1, 1, 1), (1, 1, 1)
        )


def test_results_beyond_64_bits_are_refused():
    x, weight = torch.ones(1, 1, 4).expand(1 << 57, 1, 4), torch.ones(2, 3, 1, 32)
    with pytest.raises(StructureError, match="a result of fewer than"):
        local_correlation(x, weight, None, None, [1], [0, 0], [1])


@pytest.mark.parametrize("path", ["auto", "reference"])
def test_parameters_put_in_with_another_shape_are_refused_before_memory_is_read(path):
    x = torch.ones(1, 2, 9)
    for shape in [(2, 3, 2, 4), (8, 3, 2, 4), (7, 3, 1, 4), (7, 2, 2, 4)]:
        layer = sc.nn.LocallyConnected1d(2, 4, 3, input_size=9, bias=False)
        layer.weight = torch.nn.Parameter(torch.ones(shape))
        with sc.kernels.use(path), pytest.raises(StructureError, match="of one local correlation"):
            layer(x)
    layer = sc.nn.LocallyConnected1d(2, 4, 3, input_size=9)
    layer.bias = torch.nn.Parameter(torch.ones(4, 2))
    with sc.kernels.use(path), pytest.raises(StructureError, match=r"a bias of shape \(4, 7\)"):
        layer(x)
    transpose = sc.nn.LocallyConnectedTranspose1d(2, 4, 3, input_size=9)
    transpose.weight = torch.nn.Parameter(torch.ones(9, 3, 4, 1))
    with sc.kernels.use(path), pytest.raises(StructureError, match="of one local correlation"):
        transpose(x)


def test_labels_that_are_not_one_per_position_are_refused():
    x, weight = torch.ones(1, 1, 4), torch.ones(4, 1, 1, 1)
    with pytest.raises(StructureError, match="3 labels"):
        local_correlation(x, weight, None, torch.zeros(3, dtype=torch.int64), [1], [0, 0], [1])


def test_operands_of_several_types_are_refused():
    x, weight = torch.ones(1, 1, 4), torch.ones(4, 1, 1, 1, dtype=torch.float64)
    with pytest.raises(StructureError, match=r"operands of type torch\.float32"):
        compiled.forward(x, weight, None, None, [1], [0, 0], [1], 1)


def test_paths():
    x = torch.zeros(1)
    assert path.choose(x) == "native"
    assert path.choose(x.half()) == "reference"
    with sc.kernels.use("reference"):
        assert path.choose(x) == "reference"
        with sc.kernels.use("native"):
            assert path.choose(x) == "native"
            with pytest.raises(StructureError, match=r"native kernels for torch\.float16 on cpu"):
                path.choose(x.half())
    assert path.choose(x) == "native"
    with (
        pytest.raises(StructureError, match="a path among auto, reference, native, triton"),
        sc.kernels.use("fast"),
    ):
        pass
    assert sc.kernels.info()["native"] == native.SET


def test_without_compiled_kernels_plain_torch_serves(monkeypatch):
    monkeypatch.setattr(native, "SET", "")
    monkeypatch.setattr(native, "WHY_NOT", "removed")
    assert path.choose(torch.zeros(1)) == "reference"
    assert "removed" in sc.kernels.info()["native"]

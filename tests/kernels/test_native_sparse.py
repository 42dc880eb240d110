"""The compiled sparse kernels against dense products in double precision, on every set."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import symconv as sc
from symconv.errors import StructureError
from symconv.kernels import indices, native
from symconv.kernels.native import sparse as compiled
from symconv.kernels.sparse import sparse_product

pytestmark = pytest.mark.skipif(not native.SET, reason=f"no compiled kernels: {native.WHY_NOT}")

SETS = native._cpu.instruction_sets() if native.SET else []
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2}
INDICES = [torch.uint16, torch.int32, torch.int64]


@st.composite
def problems(draw, dtypes=tuple(TOLERANCE)):
    """Operands of all three operators; a row of connections may name an input twice."""
    batch = draw(st.sampled_from([1, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 65, 130]))
    m = draw(st.sampled_from([1, 2, 3, 16, 17, 200, 300, 1100]))
    n = draw(st.sampled_from([1, 2, 5, 16, 33, 100, 257]))
    k = draw(st.sampled_from([1, 2, 3, 7, 8, 9, 16, 31, 40, 100]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from(dtypes))

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    def rows(features):
        order = draw(st.sampled_from(["contiguous", "transposed", "gaps", "expanded"]))
        if order == "transposed":
            return normal(features, batch).t()
        if order == "gaps":
            return normal(batch + 1, 2 * features + 3)[1:, 3::2]
        if order == "expanded":
            return normal(1, 1).expand(batch, features)
        return normal(batch, features)

    connections = torch.randint(m, (n, k), generator=generator)
    bias = normal(n) if draw(st.booleans()) else None
    return rows(m), rows(n), normal(n, k), bias, connections


def results(problem):
    x, y, weight, bias, connections = problem
    return (
        compiled.forward(x, weight, connections, bias),
        compiled.adjoint(y, weight, connections, x.shape[1]),
        compiled.weight_gradient(x, y, connections),
    )


def dense(problem):
    """The three by the matrix of the weights."""
    x, y, weight, bias, connections = problem
    x, y = x.double(), y.double()
    matrix = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64)
    matrix.scatter_add_(1, connections, weight.double())
    output = x @ matrix.t() + (0 if bias is None else bias.double())
    return output, y @ matrix, (y.t() @ x).gather(1, connections)


def check(problem):
    for name, got, wanted in zip("yxw", results(problem), dense(problem), strict=True):
        assert got.shape == wanted.shape
        assert got.is_contiguous()
        error = (got.double() - wanted).abs().max().item()
        scale = max(1e-3, wanted.abs().max().item())
        assert error <= TOLERANCE[got.dtype] * scale, f"{name}: {error / scale:.1e}"


def at_least(dtype):
    """Indices no narrower than this."""
    return lambda connections: indices.narrowed(connections, dtype)


@pytest.mark.parametrize("instruction_set", SETS)
@settings(max_examples=120)
@given(problem=problems(), index=st.sampled_from(INDICES))
def test_operators_equal_dense_products(instruction_set, problem, index):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "SET", instruction_set)
        patch.setattr(compiled, "narrowed", at_least(index))
        check(problem)


@pytest.mark.parametrize("batch", [1, 16, 40])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_sizes_with_several_chunks_parts_and_slices(batch, dtype):
    """Results above 4 MB go around the caches; the gradient to the input is made in parts."""
    torch.manual_seed(0)
    m, n, k = 1500, 2000, 531 + batch
    x, y, weight = torch.randn(batch, m), torch.randn(batch, n), torch.randn(n, k)
    connections = torch.randint(m, (n, k))
    check((x.to(dtype), y.to(dtype), weight.to(dtype), None, connections))


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_wrong_connection_would_be_seen(monkeypatch, wrong):
    torch.manual_seed(0)
    connections = torch.randint(40, (30, 9))
    problem = torch.randn(3, 40), torch.randn(3, 30), torch.randn(30, 9), None, connections

    def off(connections):
        found, most = indices.narrowed(connections)
        found = found.clone()
        found[-1, -1] = (int(found[-1, -1]) + wrong) % 40
        return indices.Connections(found, most)

    check(problem)
    monkeypatch.setattr(compiled, "narrowed", off)
    with pytest.raises(AssertionError, match="y: "):
        check(problem)


@settings(max_examples=40)
@given(problem=problems())
def test_results_do_not_depend_on_the_number_of_threads(problem):
    """Not in a single bit."""
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(results(problem))
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
        for found in results(problem):
            assert not found.isnan().any()


@given(
    batch=st.sampled_from([1, 3, 9]),
    where=st.integers(0, 19),
    bad=st.sampled_from([torch.nan, torch.inf]),
)
def test_values_that_are_not_finite_reach_only_what_sees_them(batch, where, bad):
    torch.manual_seed(0)
    x, weight, connections = torch.randn(batch, 20), torch.randn(30, 4), torch.randint(20, (30, 4))
    before = compiled.forward(x, weight, connections)
    x[batch // 2, where] = bad
    after = compiled.forward(x, weight, connections)
    reached = torch.zeros_like(after, dtype=torch.bool)
    reached[batch // 2] = (connections == where).any(1)
    assert torch.equal(~after.isfinite(), reached)
    assert torch.equal(after[~reached], before[~reached])


@pytest.mark.parametrize(
    ("most", "dtype"),
    [(65535, torch.uint16), (65536, torch.int32), (2**31 - 1, torch.int32), (2**31, torch.int64)],
)
def test_indices_are_as_narrow_as_they_can_be(most, dtype):
    found = indices.narrowed(torch.tensor([[0, most]]))
    assert found.narrow.dtype == dtype
    assert found.narrow.long().tolist() == [[0, most]]
    assert found.most == most


def test_many_inputs():
    torch.manual_seed(0)
    m = 70_000
    connections = torch.tensor([[0, 65_535, 65_536, m - 1], [4, 4_464, 69_999, 5]])
    check((torch.randn(3, m), torch.randn(3, 2), torch.randn(2, 4), None, connections))


@pytest.mark.parametrize(("bad", "wanted"), [(-1, "of at least 0"), (7, r"in 0\.\.6")])
def test_connections_out_of_range_are_refused(bad, wanted):
    x, y, connections = torch.ones(2, 7), torch.ones(2, 3), torch.zeros(3, 2, dtype=torch.int64)
    compiled.forward(x, torch.ones(3, 2), connections)
    connections[1, 1] = bad  # seen although the others were kept
    with pytest.raises(StructureError, match=f"connections {wanted}"):
        compiled.forward(x, torch.ones(3, 2), connections)
    with pytest.raises(StructureError, match=f"connections {wanted}"):
        compiled.adjoint(y, torch.ones(3, 2), connections, 7)
    with pytest.raises(StructureError, match=f"connections {wanted}"):
        compiled.weight_gradient(x, y, connections)


def test_operands_of_several_types_are_refused():
    x, connections = torch.ones(2, 7), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(StructureError, match=r"operands of type torch\.float32"):
        compiled.forward(x, torch.ones(3, 2).double(), connections)


def test_sizes_beyond_64_bits_are_refused():
    x, connections = torch.ones(1, 1).expand(1, 1 << 61), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(StructureError, match="fewer than"):
        compiled.forward(x, torch.ones(3, 2), connections)


class Watch(TorchDispatchMode):
    """Notes the operators of ours that are dispatched."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "symconv":
            self.seen.append(func.__name__.removesuffix(".default"))
        return func(*args, **(kwargs or {}))


def gradients(problem):
    """Output and gradients of a call that is differentiated."""
    *operands, connections = (t.detach() for t in problem)
    x, weight, bias = (t.clone().requires_grad_() for t in operands)
    y = sparse_product(x, weight, connections, bias)
    return y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))


def test_who_watches_sees_operators_with_the_results_of_direct_calls():
    torch.manual_seed(0)
    connections = torch.randint(20, (30, 4))
    problem = torch.randn(3, 20), torch.randn(30, 4), torch.randn(30), connections
    direct = gradients(problem)
    with Watch() as watch:
        dispatched = gradients(problem)
    assert watch.seen == ["sparse_forward", "sparse_weight_gradient", "sparse_adjoint"]
    for mine, theirs in zip(direct, dispatched, strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        assert torch.equal(direct[0], sparse_product(*problem[:2], connections, problem[2]))


def test_outputs_without_connections_are_their_bias():
    x, weight, bias = torch.ones(2, 3), torch.ones(4, 0), torch.arange(4.0)
    for path in ("auto", "reference"):
        with sc.kernels.use(path):
            y = sparse_product(x, weight, torch.zeros(4, 0, dtype=torch.int64), bias)
        assert torch.equal(y, bias.expand(2, 4))


LAYERS = [
    (lambda: sc.nn.SparseLinear(6, 5, 3), (2, 6)),
    (lambda: sc.nn.LocallyConnected1d(2, 3, 3, input_size=5), (2, 2, 5)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_batched_backward_passes_give_the_jacobian(make, shape):
    layer, x = make(), torch.randn(shape)
    together = torch.autograd.functional.jacobian(layer, x, vectorize=True)
    assert torch.allclose(together, torch.autograd.functional.jacobian(layer, x), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, in jvp
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_forward_mode_is_refused_as_torch_would_lose_the_tangent(make, shape, learned):
    layer, x = make().requires_grad_(learned), torch.randn(shape)
    with pytest.raises(StructureError, match="forward-mode"):
        torch.func.jvp(layer, (x,), (x,))
    with forward_ad.dual_level():
        with pytest.raises(StructureError, match="forward-mode"):
            layer(forward_ad.make_dual(x, x))
        assert layer(x).shape[0] == len(x)  # no tangent: nothing is lost

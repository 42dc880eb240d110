"""The Triton kernels against plain torch, torch's convolutions, JAX and scipy.

Without a GPU they run in Triton's interpreter, in a process of its own: triton learns at import
how it is to run, and other tests may import it otherwise.
"""

import importlib.util
import math
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import triton_cases as cases

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def pool(how):
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=how)


@pytest.fixture(scope="module")
def interpreter():
    with pool(cases.interpret) as processes:
        yield lambda check, *arguments, **options: processes.submit(
            check, *arguments, **options
        ).result()


@st.composite
def local_cases(draw, dimension, kind, dtypes=DTYPES, **fixed):
    """Calls that one kind of kernel serves: "vector" or, for larger batches, "matrix"."""

    def axes(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dimension))

    most = 3 if dimension < 3 else 2  # a program takes milliseconds
    kernel, stride, dilation = axes(1, most), axes(1, most), axes(1, 2)
    padding = tuple(draw(st.integers(0, 2)) for _ in range(2 * dimension))
    out = axes(1, 4 if dimension == 1 else most - 1)
    rows = zip(out, kernel, stride, dilation, padding[::2], padding[1::2], strict=True)
    size = [max(1, s * (o - 1) + d * (k - 1) + 1 - b - a) for o, k, s, d, b, a in rows]
    size[-1] += draw(st.integers(0, 1))  # positions behind the last window
    if kind == "matrix":
        channels, batch = (-(-8 // math.prod(kernel)) + draw(st.integers(0, 2)), 9), 6
    else:
        channels = draw(st.integers(1, 5)), draw(st.sampled_from([1, 3, 8, 9]))
        batch = draw(st.integers(1, 4 if min(channels) * math.prod(kernel) >= 8 else 6))
    values = dict(
        groups=draw(st.sampled_from([1, 2] if kind == "matrix" else [1, 2, 3])),
        channels=channels,
        batch=batch,
        labels=draw(st.sampled_from([0, 2])),
        dtype=draw(st.sampled_from(dtypes)),
        strided=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )
    return cases.Local(tuple(size), kernel, stride, padding, dilation, **(values | fixed))


#: Both kinds of kernel, small enough for an interpreter: filters of their own, and shared ones.
VECTOR = cases.Local((3, 3), (3, 2), (2, 1), (1, 2, 0, 1), (1, 2), 2, (2, 3), 3)
MATRIX = cases.Local((3, 3), (3, 2), (2, 1), (1, 2, 0, 1), (1, 2), 2, (2, 9), 6)
SHARED = cases.Local((5,), (3,), (1,), (1, 1), (1,), 1, (3, 9), 6, labels=2)


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("kind", ["vector", "matrix"])
def test_local_kernels_agree_with_plain_torch(interpreter, dimension, kind):
    @given(case=local_cases(dimension, kind))
    def check(case):
        interpreter(cases.local_agrees, case)

    check()


@pytest.mark.parametrize("case", [VECTOR, MATRIX, SHARED], ids=["vector", "matrix", "shared"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_local_kernels_of_each_kind_and_type(interpreter, case, dtype):
    interpreter(cases.local_agrees, replace(case, dtype=dtype))


def test_work_cut_finer_gives_the_same(interpreter):
    """One position and 16 channels a program; sums over positions in parts."""
    wide = replace(VECTOR, groups=1, channels=(2, 33))
    many = replace(SHARED, size=(14,), batch=12)
    for case in (wide, many):
        interpreter(cases.local_agrees, case, programs=64)
    interpreter(cases.repeats_to_the_bit, many)


def test_offsets_of_64_bits(interpreter):
    """Taken where a tensor reaches beyond 2**31 entries; here they are forced."""
    for case in (VECTOR, MATRIX, SHARED):
        interpreter(cases.local_agrees, case, wide=True)


def test_empty_batches(interpreter):
    for case in (VECTOR, MATRIX, SHARED):
        interpreter(cases.local_agrees, replace(case, batch=0))
    interpreter(cases.sparse_agrees, 0, 5, 4, 2, torch.float32, torch.int64, False)


@given(case=local_cases(2, "vector", [torch.float64], labels=1))
def test_one_filter_is_a_convolution(interpreter, case):
    interpreter(cases.one_filter_is_convolution, case)


def test_one_filter_is_a_convolution_for_matrix_kernels(interpreter):
    interpreter(cases.one_filter_is_convolution, replace(MATRIX, labels=1))


def test_local_kernels_agree_with_jax(interpreter):
    for case in (VECTOR, MATRIX):
        interpreter(cases.agrees_with_jax, replace(case, groups=1))


@pytest.mark.parametrize(
    ("constants", "fewer"),
    [
        (dict(BEFORE=(0, 1, 1)), 0),
        (dict(DILATION=(1, 1, 1)), 0),
        (dict(STRIDE=(1, 1, 1)), 0),
        ({}, 1),
    ],
    ids=["padding", "dilation", "stride", "entries left unwritten"],
)
@pytest.mark.parametrize("case", [VECTOR, MATRIX], ids=["vector", "matrix"])
def test_a_wrong_kernel_is_seen(interpreter, case, constants, fewer):
    with pytest.raises(AssertionError, match="error"):
        interpreter(cases.local_agrees, case, constants=constants, fewer=fewer)


@given(
    batch=st.sampled_from([1, 2, 5, 65]),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 20),
    fan_in=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    index=st.sampled_from([torch.int32, torch.int64]),
    repeats=st.booleans(),
)
def test_sparse_kernels_agree_with_scipy(interpreter, batch, inputs, outputs, fan_in, **options):
    fan_in = min(fan_in, inputs)
    interpreter(cases.sparse_agrees, batch, inputs, outputs, fan_in, **options)


def test_a_wrong_sparse_kernel_is_seen(interpreter):
    call = cases.sparse_agrees, 3, 8, 5, 4, torch.float64, torch.int64, False
    interpreter(*call, wide=True)
    with pytest.raises(AssertionError, match="error"):
        interpreter(*call, fewer=1)


def test_indices_follow_their_buffer(interpreter):
    interpreter(cases.indices_follow_their_buffer)


def test_refusals(interpreter):
    beyond, adjoint, negative, large = interpreter(cases.refuses)
    assert beyond == adjoint == "expected connections in 0..2, got 3"
    assert negative == "expected connections of at least 0, got -1"
    assert "at most 2147483647 positions" in large
    assert str(2**32) in large


def test_derivatives_through_the_layers(interpreter):
    interpreter(cases.derivatives_through_the_layers)


LARGE = cases.Local((8, 8), (3, 3), (1, 1), (1,) * 4, (1, 1), 1, (16, 32), 64)
COMPILED = {
    80: [
        replace(LARGE, dtype=torch.bfloat16, labels=3, stride=(2, 2)),
        replace(LARGE, dtype=torch.float64),
        replace(LARGE, dtype=torch.float32, batch=1),
    ],
    90: [
        replace(LARGE, dtype=torch.float16, labels=3, stride=(2, 2)),
        replace(LARGE, dtype=torch.float32),
        replace(LARGE, dtype=torch.float32, groups=16, channels=(1, 1)),
    ],
}


@pytest.mark.parametrize("capability", COMPILED)
def test_kernels_compile_for_a_gpu(capability):
    """What the interpreter lets pass, the compiler and the assembler may not; nothing spills."""
    with pool(cases.pretend) as processes:
        found = processes.submit(cases.compiles, capability, COMPILED[capability]).result()
    assert set(found) == {
        "forward_matrix", "forward_vector", "adjoint_matrix", "adjoint_vector", "gradient_matrix",
        "gradient_vector", "forward", "adjoint", "weight_gradient",
    }  # fmt: skip
    for name, texts in found.items():
        for text in texts:
            stack = re.search(r"STACK:(\d+) .*LOCAL:(\d+)", text)
            assert stack, text
            assert stack.groups() == ("0", "0"), f"{name} spills: {text}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        for dtype in DTYPES:
            for case in (VECTOR, MATRIX, SHARED):
                case = replace(case, dtype=dtype)
                processes.submit(cases.local_agrees, case, "cuda", programs=512).result()
            for batch in (1, 65):
                call = batch, 300, 200, 30, dtype, torch.int64, False, "cuda"
                processes.submit(cases.sparse_agrees, *call).result()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("kind", ["vector", "matrix"])
def test_random_calls_on_a_gpu(dimension, kind):
    @settings(max_examples=8)  # each shape compiles kernels of its own
    @given(case=local_cases(dimension, kind))
    def check(case):
        cases.local_agrees(case, "cuda", programs=512)

    check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_derivatives_through_the_layers_on_a_gpu():
    cases.derivatives_through_the_layers("cuda")
    with pytest.raises(AssertionError, match="error"):
        cases.local_agrees(MATRIX, "cuda", fewer=1)

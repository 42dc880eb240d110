"""Checks of the Triton kernels, run in a process of their own: triton is told how to run at import.

Each check takes plain values, so that a pool can be asked for it, and raises AssertionError.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def interpret() -> None:
    """Make this process run Triton kernels without a GPU, on results prefilled with NaN."""
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    new_empty = torch.Tensor.new_empty

    def prefilled(*arguments, **options):
        tensor = new_empty(*arguments, **options)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    torch.Tensor.new_empty = prefilled
    from triton.runtime.interpreter import interpreter_builder

    # Half of the interpreter's time: it asks of every integer operation whether it overflows.
    interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)


def pretend() -> None:
    """Make this process compile for a GPU that is not there."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()


@dataclass(frozen=True)
class Local:
    """A call of a local layer; `labels` 0 is a filter a position, else so many filters."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    channels: tuple[int, int]  # of a group
    batch: int
    labels: int = 0
    dtype: torch.dtype = torch.float64
    strided: bool = False
    seed: int = 0

    @property
    def geometry(self):
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def out(self) -> tuple[int, ...]:
        axes = self.size, self.kernel, *self.geometry[:1], self.dilation
        axes = (*axes, self.padding[::2], self.padding[1::2])
        rows = zip(*axes, strict=True)
        return tuple((n + b + a - d * (k - 1) - 1) // s + 1 for n, k, s, d, b, a in rows)

    def operands(self, device: str):
        """Input, weight, bias, labels and a gradient of the output."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape):
            return torch.randn(shape, generator=generator).to(self.dtype).to(device)

        places = torch.Size(self.out).numel()
        c, o = self.channels
        x = draw(self.batch, c * self.groups, *self.size)
        y = draw(self.batch, o * self.groups, *self.out)
        if self.strided:
            x = x.transpose(0, -1).contiguous().transpose(0, -1)
            y = draw(*y.shape, 2)[..., 0]
        weight = draw(self.labels or places, *self.kernel, c, o * self.groups)
        labels = None
        if self.labels:
            labels = torch.randint(self.labels, (places,), generator=generator).to(device)
        return x, weight, draw(o * self.groups, *self.out), labels, y


def assert_close(got, wanted, what: str) -> None:
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, expected {wanted.shape}"
    assert got.is_contiguous(), f"{what}: not contiguous"
    if not got.numel():
        return
    scale = max(1.0, wanted.abs().max().item())
    error = (got.double() - wanted.to(got.device)).abs().max().item()
    assert error <= TOLERANCE[got.dtype] * scale, f"{what}: error {error:.2e} at scale {scale:.2e}"


@contextmanager
def altered(constants: dict | None, fewer: int, wide: bool):
    """Launch kernels with other constants, so many programs fewer, or with offsets of 64 bits."""
    import triton.language as tl

    from symconv.kernels.triton import local, sparse
    from symconv.kernels.triton.geometry import launch

    def other(kernel, count, *arguments, **options):
        options |= (constants or {}) | (dict(INDEX=tl.int64) if wide else {})
        launch(kernel, count - fewer, *arguments, **options)

    local.launch = sparse.launch = other
    try:
        yield
    finally:
        local.launch = sparse.launch = launch


@contextmanager
def of_programs(count: int):
    """Cut work finer or coarser: for at least so many programs."""
    from symconv.kernels.triton import geometry, local

    before = geometry.PROGRAMS
    geometry.PROGRAMS = local.PROGRAMS = count
    try:
        yield
    finally:
        geometry.PROGRAMS = local.PROGRAMS = before


def three_maps(kernels, case: Local, operands):
    """Output, gradient to the input and gradient to the weight."""
    x, weight, bias, labels, y = operands
    return (
        kernels.forward(x, weight, bias, labels, *case.geometry),
        kernels.adjoint(y, weight, labels, case.size, *case.geometry),
        kernels.weight_gradient(x, y, labels, weight.shape, *case.geometry),
    )


NAMES = "output", "gradient to the input", "gradient to the weight"


def local_agrees(
    case: Local, device: str = "cpu", programs: int = 1,
    constants: dict | None = None, fewer: int = 0, wide: bool = False,
) -> None:  # fmt: skip
    """The three maps are plain torch's in double precision."""
    from symconv.kernels.plain import local as plain
    from symconv.kernels.triton import local

    operands = case.operands(device)
    with of_programs(programs), altered(constants, fewer, wide):
        found = three_maps(local, case, operands)
    wide = [t if t is None or t.dtype == torch.int64 else t.cpu().double() for t in operands]
    wide[3] = None if wide[3] is None else wide[3].cpu()
    for got, wanted, name in zip(found, three_maps(plain, case, wide), NAMES, strict=True):
        assert got.dtype == case.dtype
        assert_close(got, wanted, name)


def repeats_to_the_bit(case: Local, device: str = "cpu") -> None:
    """Two calls give the same bits, with sums in parts."""
    from symconv.kernels.triton import local

    with of_programs(64):
        first, second = (three_maps(local, case, case.operands(device)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def one_filter_is_convolution(case: Local) -> None:
    """With one filter for all positions, torch's convolution and its gradients."""
    from symconv.kernels.triton import local

    x, weight, _, labels, y = case.operands("cpu")
    bias = torch.zeros(y.shape[1:], dtype=case.dtype)
    with of_programs(1):
        found = three_maps(local, case, (x, weight, bias, labels, y))
    n = len(case.size)
    pads = [amount for a in reversed(range(n)) for amount in case.padding[2 * a : 2 * a + 2]]
    x, filters = x.clone().requires_grad_(), weight[0].clone().requires_grad_()
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[n - 1]
    padded = torch.nn.functional.pad(x, pads)
    wanted = convolve(padded, filters.movedim((-1, -2), (0, 1)), None, case.stride, 0,
                      case.dilation, case.groups)  # fmt: skip
    gradients = torch.autograd.grad(wanted, (x, filters), y)
    assert_close(found[0], wanted.detach(), "convolution")
    assert_close(found[1], gradients[0], "its gradient to the input")
    assert_close(found[2][0], gradients[1], "its gradient to the weight")


def agrees_with_jax(case: Local) -> None:
    """`jax.lax.conv_general_dilated_local` and its gradients; it has no groups."""
    import jax
    import numpy as np
    from jax import lax

    from symconv.kernels.triton import local

    x, weight, bias, labels, y = case.operands("cpu")
    with of_programs(1):
        found = three_maps(local, case, (x, weight, torch.zeros_like(bias), labels, y))
    n = len(case.size)
    space = "DHW"[-n:]
    pairs = tuple(zip(case.padding[::2], case.padding[1::2], strict=True))

    def theirs(x, weight):
        weight = jax.numpy.moveaxis(weight.reshape(*case.out, *weight.shape[1:]), 2 * n, n)
        weight = weight.reshape(*case.out, -1, weight.shape[-1])
        return lax.conv_general_dilated_local(
            x, weight, case.stride, pairs, case.kernel, rhs_dilation=case.dilation,
            dimension_numbers=(f"NC{space}", f"{space}IO", f"NC{space}"),
        )  # fmt: skip

    with jax.enable_x64(True):
        wanted, pull = jax.vjp(theirs, x.numpy(), weight.numpy())
        every = (wanted, *pull(jax.numpy.asarray(y.numpy())))
        every = [torch.from_numpy(np.array(part)) for part in every]
    for got, expected, name in zip(found, every, NAMES, strict=True):
        assert_close(got, expected, f"{name} against JAX")


def sparse_agrees(
    batch: int, inputs: int, outputs: int, fan_in: int, dtype: torch.dtype, index: torch.dtype,
    repeats: bool, device: str = "cpu", fewer: int = 0, wide: bool = False,
) -> None:  # fmt: skip
    """The three maps are scipy's, in double precision."""
    from scipy.sparse import csr_array

    from symconv.kernels.triton import sparse

    generator = torch.Generator().manual_seed(batch + 7 * fan_in)
    chosen = torch.rand(outputs, inputs, generator=generator).argsort(1)[:, :fan_in]
    if repeats:
        chosen = torch.randint(inputs, (outputs, fan_in), generator=generator)
    x, weight, y = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((batch, inputs), (outputs, fan_in), (batch, outputs))
    )
    starts = torch.arange(outputs + 1) * fan_in
    values = weight.double().flatten().numpy()
    matrix = csr_array((values, chosen.flatten().numpy(), starts.numpy()), (outputs, inputs))
    wanted = (
        torch.from_numpy((matrix @ x.double().numpy().T).T),
        torch.from_numpy((matrix.T @ y.double().numpy().T).T),
        (x.double()[:, chosen] * y.double()[:, :, None]).sum(0),
    )
    x, weight, y, chosen = (t.to(device) for t in (x, weight, y, chosen.to(index)))
    with altered(None, fewer, wide):
        found = (
            sparse.forward(x, weight, chosen),
            sparse.adjoint(y, weight, chosen, inputs),
            sparse.weight_gradient(x, y, chosen),
        )
    for got, expected, name in zip(found, wanted, NAMES, strict=True):
        assert got.dtype == dtype
        assert_close(got, expected, name)


def indices_follow_their_buffer() -> None:
    """Connections and labels written to in place are read anew."""
    from symconv.kernels.triton import local, sparse

    x, weight = torch.randn(2, 5), torch.randn(3, 2)
    chosen = torch.tensor([[0, 1], [1, 2], [3, 4]])
    for _ in range(2):
        dense = torch.zeros(3, 5).scatter_add_(1, chosen, weight).double()
        assert_close(sparse.forward(x, weight, chosen), x.double() @ dense.T, "output")
        assert_close(sparse.adjoint(x[:, :3], weight, chosen, 5), x[:, :3].double() @ dense, "x")
        chosen.copy_(torch.tensor([[4, 3], [0, 1], [2, 1]]))
    x, y, labels = torch.randn(1, 1, 4), torch.randn(1, 1, 4), torch.tensor([0, 1, 1, 0])
    for _ in range(2):
        got = local.weight_gradient(x, y, labels, (2, 1, 1, 1), (1,), (0, 0), (1,), 1)
        products = (x * y).double().flatten()
        wanted = torch.zeros(2, dtype=torch.float64).index_add_(0, labels, products)
        assert_close(got.flatten(), wanted, "gradient")
        labels.copy_(torch.tensor([1, 1, 1, 0]))


def refuses() -> list[str]:
    """The messages on wrong connections and on sizes beyond 32 bits."""
    from symconv.errors import StructureError
    from symconv.kernels.triton import sparse
    from symconv.kernels.triton.geometry import Geometry

    x, weight = torch.randn(1, 3), torch.randn(1, 2)
    wrong = [
        lambda: sparse.forward(x, weight, torch.tensor([[0, 3]])),
        lambda: sparse.adjoint(x[:, :1], weight, torch.tensor([[0, 3]]), 3),
        lambda: sparse.forward(x, weight, torch.tensor([[0, -1]])),
        lambda: Geometry.of((2**16, 2**16), (1, 1, 1, 1, 1), (1, 1), (0,) * 4, (1, 1), 1),
    ]
    messages = []
    for call in wrong:
        try:
            call()
        except StructureError as error:
            messages.append(str(error))
    return messages


def derivatives_through_the_layers(device: str = "cpu") -> None:
    """First and second derivatives of the public functions on this path, against differences."""
    import symconv as sc

    torch.manual_seed(0)
    kind = {"dtype": torch.float64, "device": device, "requires_grad": True}
    x = torch.randn(1, 2, 3, **kind)
    weight = torch.randn(3, 2, 2, 1, **kind)
    bias = torch.randn(1, 3, **kind)
    chosen = torch.tensor([[0, 2], [1, 0]], device=device)
    flat = torch.randn(2, 3, **kind)
    values = torch.randn(2, 2, **kind)

    def local(x, weight, bias):
        return sc.functional.local_conv(x, weight, bias, padding=(1,), dilation=(2,))

    def sparse(x, weight):
        return sc.functional.sparse_linear(x, weight, chosen)

    with sc.kernels.use("triton"):
        for function, inputs in ((local, (x, weight, bias)), (sparse, (flat, values))):
            assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
            assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def compiles(capability: int, cases: list[Local]) -> dict[str, list[str]]:
    """Compile what `cases` and two sparse layers launch; register use by kernel, per cuobjdump."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from symconv.kernels.triton import local, sparse

    class Absent:
        def get_current_target(self):
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device=0):
            return 0

    driver.set_active(Absent())
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    found: dict[str, list[str]] = {}

    def launch(kernel, programs, *arguments, **constants):
        done = kernel.warmup(*arguments, **constants, grid=(programs,), enable_fp_fusion=True)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(done.asm["cubin"])
            file.flush()
            command = [str(tool), "-res-usage", file.name]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.setdefault(kernel.__name__, []).append(text)

    local.launch = sparse.launch = launch
    for case in cases:
        three_maps(local, case, case.operands("cpu"))
    for batch, dtype in ((1, torch.float32), (32, torch.bfloat16)):
        x, chosen = torch.empty(batch, 64, dtype=dtype), torch.zeros(64, 9, dtype=torch.int64)
        weight = torch.empty(64, 9, dtype=dtype)
        sparse.forward(x, weight, chosen)
        sparse.adjoint(x, weight, chosen, 64)
        sparse.weight_gradient(x, x, chosen)
    return found

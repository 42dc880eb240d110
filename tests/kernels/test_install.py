"""What an installation must be: its own processor's code, torch's threads, and plain torch else."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import symconv as sc
from symconv.kernels import native

CPU = Path(native.__file__).parents[1] / "cpu"
COMPILER = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
compiled = pytest.mark.skipif(not native.SET, reason="no compiled kernels here")
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's tools")


def run(program, *arguments, **environment):
    environment = {**os.environ, **environment}
    command = sys.executable, "-c", program, *map(str, arguments)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@linux
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
def test_kernels_are_compiled_where_a_compiler_is():
    assert native.SET, f"{native.WHY_NOT}; `pip install -v -e .` shows how the build went"


# -- an installation that is not whole -------------------------------------------------------------

LAYERS = """
import importlib.util, sys, torch

class Instead:  # the compiled module is loaded from the file that is named
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "symconv.kernels._cpu":
            return importlib.util.spec_from_file_location(name, sys.argv[1])

if len(sys.argv) > 1:
    sys.meta_path.insert(0, Instead)
import symconv as sc

torch.manual_seed(0)
results = []
for layer, *size in (
    (sc.nn.LocallyConnected2d(3, 4, 3, input_size=(9, 8), padding=1), 3, 9, 8),
    (sc.nn.SparseLinear(40, 30, fan_in=7), 40),
):
    x = torch.randn(5, *size, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    results += [y.detach(), x.grad, *(p.grad for p in layer.parameters())]
if len(sys.argv) > 1:
    torch.save([sc.kernels.info()["native"], results], sys.argv[2])
"""


def here():
    """The results of LAYERS in this process, by plain torch."""
    names = {}
    with sc.kernels.use("reference"), torch.random.fork_rng():
        source, arguments = compile(LAYERS, "layers", "exec"), sys.argv
        try:
            sys.argv = arguments[:1]
            exec(source, names)
        finally:
            sys.argv = arguments
    return names["results"]


def damaged(path, kind):
    whole = Path(native._cpu.__file__).read_bytes() if native.SET else b"\x7fELF" + bytes(5000)
    if kind != "missing":
        path.write_bytes(whole if kind == "whole" else whole[: len(whole) // 2])
    return path


@pytest.mark.parametrize("kind", ["missing", "half", pytest.param("whole", marks=compiled)])
def test_plain_torch_serves_where_the_compiled_module_does_not_load(tmp_path, kind):
    run(LAYERS, damaged(tmp_path / "_cpu.so", kind), tmp_path / "results")
    which, results = torch.load(tmp_path / "results")
    if kind == "whole":
        assert which == native.SET
    else:
        assert which.startswith("not in use: the compiled module does not load")
    torch.testing.assert_close(results, here())


# -- threads ---------------------------------------------------------------------------------------

THREADS = """
import os, torch, symconv as sc
from symconv.kernels import native

def threads():
    return len(os.listdir("/proc/self/task"))

def ours():
    with torch.no_grad():
        layer(x)

def torchs():
    torch.randn(1 << 22).exp_()

torch.set_num_threads(1)
layer, x = sc.nn.LocallyConnected2d(8, 8, 3, input_size=40), torch.randn(4, 8, 40, 40)
ours()
counts = [threads()]
ours()
counts.append(threads())
torch.set_num_threads(2)
for call in ours, torchs, ours:
    call()
    counts.append(threads())
print(native.THREADS, *(count - counts[0] for count in counts[1:]))
"""


@linux
@compiled
def test_threads_are_torchs_own_and_as_many_as_it_says():
    with_threads, *counts = run(THREADS, OMP_NUM_THREADS="2").split()
    if with_threads == "False":
        pytest.skip("torch has brought no OpenMP runtime that the kernels know")
    assert counts == ["0", "1", "1", "1"]


@linux
@compiled
@pytest.mark.skipif(not shutil.which("ldd"), reason="no ldd here")
def test_nothing_of_torch_or_openmp_is_linked():
    def libraries(of):
        text = subprocess.run(("ldd", of), capture_output=True, text=True, check=True).stdout
        return [line.split()[0] for line in text.splitlines()]

    def foreign(names):
        return [n for n in names if any(part in n for part in ("omp", "torch", "c10", "python"))]

    assert not foreign(libraries(native._cpu.__file__))
    assert foreign(libraries(torch._C.__file__))  # the check can see them


# -- symbols ---------------------------------------------------------------------------------------


def shared_symbols(source, tmp_path, *flags):
    """Symbols that a linker may take from another object instead: global ones of other names."""
    made = tmp_path / "made.o"
    command = (COMPILER, "-std=c++17", "-O0", "-fPIC", "-c", source, "-o", made, *flags)
    subprocess.run(tuple(map(str, command)), check=True, capture_output=True)
    command = ("nm", "-C", "--defined-only", "--extern-only", str(made))
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    names = [line.split(maxsplit=2)[2] for line in lines]
    assert names
    return [name for name in names if "symconv::probe::" not in name]


@linux
@pytest.mark.skipif(not (COMPILER and shutil.which("nm")), reason="no compiler here")
def test_code_for_an_instruction_set_shares_no_symbol_with_another(tmp_path):
    wide = ["-DSYMCONV_BYTES=32", "-mavx2", "-mfma"]
    flags = wide if platform.machine() == "x86_64" else ["-DSYMCONV_BYTES=16"]
    flags += ["-DSYMCONV_ISA=probe", "-Wno-psabi"]
    assert not shared_symbols(CPU / "isa.cpp", tmp_path, *flags)
    leaky = tmp_path / "leaky.cpp"  # what a template of the standard library leaves behind
    leaky.write_text("#include <algorithm>\nint f(int a, int b) { return std::max(a, b); }\n")
    assert any("std::max" in name for name in shared_symbols(leaky, tmp_path))


def test_a_module_of_other_sources_is_named_and_not_used():
    program = """
import importlib.machinery, sys, types, warnings
warnings.simplefilter("ignore")
name = "symconv.kernels._cpu"
sys.modules[name] = types.ModuleType(name)
sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
import symconv
print(symconv.kernels.info()["native"])
"""
    assert "built from other sources" in run(program)

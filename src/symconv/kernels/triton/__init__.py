"""The operators of local and sparse layers in Triton, for GPUs.

`local` and `sparse` offer the functions of `symconv.kernels.plain`: forward, adjoint (the gradient
to the input) and weight_gradient. Import them only where triton is; nothing else here needs it.

What they promise: one kernel for one to three axes of space, any stride, zero padding, dilation,
groups and channel counts; float32 to float32 rounding (no TensorFloat-32), half types summed in
float32, float64 in float64. Each entry of a result is summed by one program in a fixed order,
without atomics: equal calls give equal bits on one device. A product of padding and a weight counts
as 0 times the weight, as in plain torch, so a weight that is not finite shows.

Memory: beside operands and results, one layout copy of the input and of the output where the batch
is larger than 4, and at most 16 MiB of partial sums where few filters serve many positions; for
sparse layers the connections as 32-bit integers and their order by input, kept with them.

What has been checked: every kernel in Triton's interpreter against plain torch, torch's own
convolutions, JAX and scipy, and compiled ahead of time for compute capabilities 8.0 and 9.0 (no
register spilled). No speed has been measured on a GPU: block sizes follow from arithmetic, not from
trials.

References: P. Tillet, H. T. Kung, D. Cox, "Triton: an intermediate language and compiler for tiled
neural network computations", MAPL 2019.
"""

import triton

#: Why these kernels are not in use, or "" where they can be.
WHY_NOT = ""
if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
    WHY_NOT = f"triton {triton.__version__} is older than 3.6"

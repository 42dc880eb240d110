"""Floor 2: differentiable primitives, compiled where they can be, with plain torch beside them.

`info()` says what they run on here; `use("reference")` makes plain torch serve the calls inside.
"""

from symconv.kernels.path import info as info
from symconv.kernels.path import release as release
from symconv.kernels.path import use as use

__all__ = ["info", "release", "use"]

"""Floor 2: differentiable primitives, each with a slow plain-torch reference beside it."""

"""What a structure costs before anything is built: weights, connections, MACs, flops, memory.

`symconv.cost.measure`, which needs torch, is not loaded here: counting alone stays quick.
"""

from symconv.cost.counts import BYTES, Boundary, Cost, Table, parse_sizes, table

__all__ = ["BYTES", "Boundary", "Cost", "Table", "parse_sizes", "table"]

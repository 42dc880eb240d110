"""Floor 0: exact integers. Windows, signed permutation groups, representations and orbits."""

"""The kernels in plain torch: what serves where nothing is compiled, and what checks the rest."""

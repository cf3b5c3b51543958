"""Engine plugins: one folder each, or an installed package in the entry-point group ``metahuman.engines``."""

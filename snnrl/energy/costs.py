"""Energy of an arithmetic operation, in picojoules."""

MULTIPLY_ACCUMULATE_PJ = 4.6
"""32-bit float multiply (3.7) and add (0.9), 45 nm CMOS: Horowitz 2014 (ISSCC), Fig. 1.1.9; arXiv 2110.05929."""

ACCUMULATE_PJ = 0.9
"""32-bit float add in 45 nm CMOS, same sources."""

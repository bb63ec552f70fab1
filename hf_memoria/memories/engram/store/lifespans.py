"""How near lifespans may come before they are the same, and how long they may be.

What rounding leaves of a life is none.
"""

from __future__ import annotations

LEAST = 2.0**-14
"""A part of a step: who has no more left to live is forgotten, and lifespans are compared in whole parts.

What engrams earn is a share of a sum, which rounds otherwise in a batch than alone, by some 1e-7 of it; what they lose
is whole steps. So lifespans that are whole numbers by the rules come out just beside them, on either side, and at 0
one row would forget what another keeps. Rounding stays below this up to lifespans of some hundreds of steps, no life
is shortened by more than a ten-thousandth of a step, and sums end just here by chance alone, but at 0 by the rules.
"""

MOST = 2.0**40
"""Steps that a new engram may be given, and that one may earn on average: more than any run has, so it means never.

Lifespans are float32. With 2^40 to begin with and 2^40 for each of 2^31 reminded engrams in a step, which one of them
may earn alone, a lifespan is finite for 2^56 steps.
"""

"""The gated linear recurrence and the ways to compute it. Knows no model."""

from gateloop.recurrence.operator import MODES, gate_loop, gated_linear_recurrence

__all__ = ["MODES", "gate_loop", "gated_linear_recurrence"]

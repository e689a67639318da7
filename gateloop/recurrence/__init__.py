"""The gated linear recurrence and the ways to compute it. Knows no model."""

from gateloop.recurrence.linear_scan import linear_scan
from gateloop.recurrence.operator import FIXED_MODES, MODES, gate_loop, gated_linear_recurrence

__all__ = ["FIXED_MODES", "MODES", "gate_loop", "gated_linear_recurrence", "linear_scan"]

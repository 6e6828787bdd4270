"""How long to wait for a machine that measures."""

ANSWER_S = 15.0  # a board that is there greets, and answers a question, within this
# Far below what any board does: its patience is a deadline, not an estimate.
_BYTES_PER_S = 250e3
_FLOP_PER_S = 10e6


def patience_s(moved_bytes: int = 0, flops: int = 0) -> float:
    """How long to wait for an answer to so much work."""
    return ANSWER_S + moved_bytes / _BYTES_PER_S + flops / _FLOP_PER_S

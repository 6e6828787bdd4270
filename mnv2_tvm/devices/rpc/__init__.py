"""Boards over TVM RPC, which a tracker lists."""

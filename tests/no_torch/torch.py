"""Stands before torch on the path of every verb that a test starts: the core needs none."""

raise ImportError("torch is no part of the core")

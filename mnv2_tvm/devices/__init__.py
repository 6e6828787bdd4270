"""The machines that measure, and the ways to them."""

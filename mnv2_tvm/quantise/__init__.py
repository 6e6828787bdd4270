"""int8: one definition of the numbers, a network's way to them, and their reference."""

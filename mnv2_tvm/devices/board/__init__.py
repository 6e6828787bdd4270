"""What runs on the board: one file, with the standard library and TVM alone."""

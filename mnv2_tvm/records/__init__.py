"""What was measured and kept, and which schedule follows from it."""

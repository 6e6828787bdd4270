"""Boards that qemu emulates: an arm64 system with an RPC server, and microcontrollers."""

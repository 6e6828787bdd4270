"""Where candidates are built and measured: worker processes of this host."""

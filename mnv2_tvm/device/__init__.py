"""Where candidates are built and measured: worker processes here, and boards over TVM RPC."""

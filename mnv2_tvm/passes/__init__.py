"""The phases of the compiler, one file each; `mnv2_tvm.pipeline` is the list of them."""

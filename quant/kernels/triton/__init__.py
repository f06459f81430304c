"""Triton kernels on the raw bytes of quantized blocks, for cards of compute capability 8.0 and newer.

`decoders` says how the words of each type's blocks are read; `dot` and `expand` are what all types share; the other
modules are kernels made of them. Nothing here is imported before `quant.kernels.card` is asked for these kernels.
"""

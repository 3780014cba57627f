"""Graphs that are libraries: what computes is code of a package, not an ONNX file.

`catalogue.py` lists them; each has a module here with two functions: `pack` (once, from the package: which files are
its weights) and `load` (in Triton's Python backend or in `LocalRunner`: a function from input to output arrays).
"""

"""The published reward models: their original classes, made into graphs.

| module | models |
|---|---|
| `catalogue.py` | what there is: names, shapes, preprocessing, sources, licences (no torch) |
| `weights.py` | reads weights from a file, a folder or the hub; never unpickles |
| `convert.py` | weights + original class → ONNX or safetensors in the graph store (`sync-r1 export`) |
| `torch_engine.py` | runs safetensors by torch: bf16, CUDA graphs |
| `parts.py` | what families share: normalisation inside the graph, the form of a graph |
| `openclip.py`, `vision.py`, … | one module per family: builds the original class, wraps it into graphs |

Importing this package, the catalogue and the profiles needs no torch; everything else needs the `export` extra.
"""

"""Writes a fit file for the model of tiny_model.py, without any code of the project."""
import hashlib

import llama_numpy
import tiny_model


def fingerprint():
    """SHA-256 of the query and key projections as they are stored, layer by layer."""
    digest, stored = hashlib.sha256(), tiny_model.tensors()
    for layer in range(tiny_model.LAYERS):
        for name in "qk":
            digest.update(stored["model.layers.%d.self_attn.%s_proj.weight" % (layer, name)].tobytes())
    return digest.hexdigest()


def write(path, arrays, rank, **metadata):
    """arrays: {name: float32}; metadata replaces or adds to the usual."""
    said = {"model": fingerprint(), "format": "sparsed.sparsefinder.v1", "layers": str(tiny_model.LAYERS),
            "heads": str(tiny_model.HEADS), "d": str(tiny_model.HEAD_DIM), "r": str(rank), "alpha": "1.5", "seed": "0",
            "rope": "post"}
    said.update(metadata)
    with open(path, "wb") as file:
        file.write(llama_numpy.write_safetensors(dict(sorted(arrays.items())), said))

"""Layers that can be cut, exported and quantized, and structural edits on networks made of them."""

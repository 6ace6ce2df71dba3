"""Blocks and building functions that several families share."""

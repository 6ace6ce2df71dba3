"""Generative adversarial training: critics, cycle consistency, and how generated sets are scored."""

"""The nouns that pass between the parts, and the few mechanisms that all parts use. Imports neither torch nor
optuna.
"""

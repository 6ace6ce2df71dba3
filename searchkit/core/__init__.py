"""Types that the parts exchange, and small mechanisms that all parts use.

Importing this package loads neither torch nor optuna.
"""

"""The families, one file each. Files that begin with an underscore are shared code."""

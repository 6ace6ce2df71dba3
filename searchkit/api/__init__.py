"""The Python API: `import searchkit` hands these names on. The command line is a thin layer over it."""

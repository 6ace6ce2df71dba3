"""One module a form of input: how raw arrays become what a network takes."""

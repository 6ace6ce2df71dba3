"""A weight-sharing supernet: one network holds all others of a kind, which are scored with its weights."""

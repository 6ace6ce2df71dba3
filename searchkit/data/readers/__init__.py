"""One reader a file format. Each returns a `RawDataset`, or raises BadInput with one sentence."""

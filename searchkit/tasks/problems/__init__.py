"""One module a problem: what is predicted, by which loss, and how it is scored."""

"""What the test split says: confidence intervals, paired tests, and the evidence of a run."""

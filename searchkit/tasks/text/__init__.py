"""Text tasks: language modeling, masked pre-training, and exact or free sequence-to-sequence."""

"""Training: run folders and the pre-training loop."""

"""Hugging Face encoder-decoder checkpoints: one file a family, and what all of them share."""

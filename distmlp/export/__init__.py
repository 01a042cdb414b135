"""Trained weights for other programs: one file, or a folder that Hugging Face's `transformers` loads."""

"""Continual pre-training on a manifest: the plan, the stream, the loop and what it shows."""

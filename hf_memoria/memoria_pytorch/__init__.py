"""Checkpoints of memoria-pytorch, converted."""

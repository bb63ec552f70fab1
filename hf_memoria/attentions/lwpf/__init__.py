"""Attention with partial forgetting (LwPF, Ota et al., AISTATS 2023)."""

"""Attention as sparse distributed memory (Bricken & Pehlevan, NeurIPS 2021)."""

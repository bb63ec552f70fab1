"""The engram memory (Memoria, Park & Bak, ICML 2024): engrams with lifespans, and the graph of their firing."""

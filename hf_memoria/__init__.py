"""Memory for any Hugging Face backbone."""

"""What every kind of memory needs and no kind owns."""

"""Models with memory in other people's programs: one module a program."""

"""Fuzzing of everything that reads a file: `make fuzz FUZZ_MINUTES=10`, or `python -m tests.fuzz --help`."""

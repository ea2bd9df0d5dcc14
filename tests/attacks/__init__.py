"""Makers of hostile files, for tests and fuzzing. docs/security.md says what is promised about such files."""

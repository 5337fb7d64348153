"""Fuzzing of all that reads files from strangers: changed files must be refused or read as what they hold."""

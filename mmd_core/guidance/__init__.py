"""Guidance of one sampling run."""

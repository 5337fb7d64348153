"""Guidance of one sampling run: settings, modes, small batches, memory and trace."""

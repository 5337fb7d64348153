"""Worlds whose truth is known, and ways to steer in them: what TRI-TSMC is measured by."""

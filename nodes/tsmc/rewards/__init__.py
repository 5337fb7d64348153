"""What a reward is, and how it decodes."""

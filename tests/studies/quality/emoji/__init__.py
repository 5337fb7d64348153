"""The benchmark of guidance in the emoji world: prompts, cfg, and sets of real pictures."""

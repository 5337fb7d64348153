"""The quality benchmark: guidance in worlds whose truth is known, against what else one could do."""

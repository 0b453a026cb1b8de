"""One file per way to judge frozen features. Knows encoders and results, and no command that runs it."""

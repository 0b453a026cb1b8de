"""What ``import eyespot`` offers: the commands' own work as functions, which return values and raise errors."""

"""What is added to an encoder that somebody else has trained, so that little of it has to learn."""

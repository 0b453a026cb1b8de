"""Networks that read captions: tokens in, a vector for each text out."""

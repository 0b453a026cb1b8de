"""What lies beside the images, as views show it: captions as tokens."""

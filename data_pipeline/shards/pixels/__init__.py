"""What the bytes of one image file say: where a JPEG ends, and the sums of pixels."""

"""The encoder of PixelCNN, and the convolutions that it is made of."""

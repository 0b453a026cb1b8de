"""Networks beside the encoder that read what lies beside an image: how each is built."""

"""Images of any number of bands on their way into views: cut out without decoding, and checked against the views."""

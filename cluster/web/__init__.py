"""``eyespot web``: run folders as pages that move, for a browser. They are read and nothing of them is ever written."""

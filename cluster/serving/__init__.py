"""``eyespot serve``: the features of a release over HTTP."""

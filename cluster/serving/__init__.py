"""``eyespot serve``: the features that a release gives of images, over HTTP, in batches."""

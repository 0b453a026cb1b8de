"""What may change on resume is listed."""

import dataclasses

from eyespot.pretrain.config import FREE_FIELDS
from eyespot.pretrain.recipe_lookup import make_run


def test_free_fields_exist():
    run = make_run("mae_tiny")
    for path in FREE_FIELDS:
        value = run
        for name in path.split("."):
            assert name in {field.name for field in dataclasses.fields(value)}, path
            value = getattr(value, name)

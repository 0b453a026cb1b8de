"""The head of a card, as a hub's own reader takes it."""

import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from result_files import some_result

from eyespot.eval.release.hub.header import front_matter


def read(text: str) -> dict:
    assert text.startswith("---\n") and text.endswith("\n---")
    return yaml.safe_load(text.strip("-"))


@pytest.mark.parametrize(
    ("license", "said"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("MIT", {"license": "mit"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("licenseref-Our-Own", {"license": "other", "license_name": "our-own"}),
        ("mit or apache-2.0", {"license": "other", "license_name": "mit-or-apache-2.0"}),
        (
            "gpl-3.0-or-later",
            {
                "license": "other",
                "license_name": "gpl-3.0-or-later",
                "license_link": "https://spdx.org/licenses/gpl-3.0-or-later.html",
            },
        ),
    ],
)
def test_licences(license: str, said: dict):
    found = read(front_matter(license, "night", []))
    assert {key: value for key, value in found.items() if key.startswith("license")} == said
    assert found["library_name"] == "timm" and found["tags"] == ["timm", "self-supervised", "eyespot"]
    assert found["pipeline_tag"] == "image-feature-extraction" and "metrics" not in found


def test_numbers():
    results = [
        some_result(data='my: "set"'),
        some_result(role="random", accuracy=0.5),
        some_result(protocol="dense-knn"),
    ]
    found = read(front_matter("mit", 'a: "b"', results, "transformers"))
    name, (told,) = model_index_to_eval_results(found["model-index"])
    assert name == 'a: "b"' and (told.dataset_name, told.dataset_type) == ('my: "set"', "my-set")
    assert (told.task_type, told.metric_type, told.metric_value) == ("image-classification", "accuracy", 0.9)
    assert found["metrics"] == ["accuracy"] and found["tags"] == ["transformers", "self-supervised", "eyespot"]
    assert ModelCardData(**found).eval_results == [told]

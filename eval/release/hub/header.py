"""The head of a card as a model hub reads it: YAML, of which the hub takes licence, library, task and numbers."""

import json
import re

from eyespot.eval.results.result import Result, slug

_VERSIONS = {
    "afl-": "3.0",
    "agpl-": "3.0",
    "apache-": "2.0",
    "artistic-": "2.0",
    "bsd-": "2-clause 3-clause 3-clause-clear",
    "cc-by-": "2.0 2.5 3.0 4.0",
    "cc-by-nc-": "2.0 3.0 4.0",
    "cc-by-nc-nd-": "3.0 4.0",
    "cc-by-nc-sa-": "2.0 3.0 4.0",
    "cc-by-nd-": "4.0",
    "cc-by-sa-": "3.0 4.0",
    "cdla-permissive-": "1.0 2.0",
    "epl-": "1.0 2.0",
    "eupl-": "1.1 1.2",
    "gpl-": "2.0 3.0",
    "lgpl-": "2.1 3.0",
    "": "bsl-1.0 c-uda cc0-1.0 cdla-sharing-1.0 ecl-2.0 etalab-2.0 isc lppl-1.3c mit mpl-2.0 ms-pl ncsa odc-by ofl-1.1"
    " osl-3.0 pddl postgresql unlicense wtfpl zlib",
}
_LICENSES = frozenset(f"{family}{version}" for family in _VERSIONS for version in _VERSIONS[family].split())
"""What the Hugging Face Hub knows of SPDX; any other is "other" there, with its name."""
_OWN = re.compile(r"licenseref-|[^a-z0-9.-]", re.IGNORECASE)
_TASKS = {"knn", "linear", "linear-grid", "linear-paper", "attentive", "low-shot", "finetune", "zero-shot"}
"""Protocols whose accuracy is one of image classification."""


def front_matter(license: str, name: str, results: list[Result], library: str = "timm") -> str:
    """The lines between and with ``---``.

    Data sets are named with the numbers only: ``datasets:`` would link to whoever has a data set of that name there.

    Args:
        license: SPDX.
        name: of the release.
        results: of its encoder and others, of which the encoder's accuracies of classification are told.
        library: what loads it.
    """
    lines = [*_license(license.lower()), f"library_name: {library}", "pipeline_tag: image-feature-extraction"]
    lines.append(f"tags: [{', '.join(dict.fromkeys((library, 'self-supervised', 'eyespot')))}]")
    told = [result for result in results if result.role == "encoder" and result.protocol in _TASKS and result.accuracy]
    if told:
        lines += ["metrics: [accuracy]", "model-index:", f"- name: {json.dumps(name)}", "  results:"]
    for result in told:
        lines += [
            "  - task: {type: image-classification}",
            f"    dataset: {{name: {json.dumps(result.data)}, type: {json.dumps(slug(result.data))}}}",
            "    metrics:",
            f'    - {{type: accuracy, value: {result.accuracy:.6g}, name: "{result.protocol} accuracy"}}',
        ]
    return "\n".join(["---", *lines, "---"])


def _license(license: str) -> list[str]:
    known = license.removesuffix("-only")
    if known in _LICENSES:
        return [f"license: {known}"]
    if license.startswith("licenseref-") or _OWN.search(license):  # of their own, or an expression
        return ["license: other", f"license_name: {_OWN.sub('-', license.removeprefix('licenseref-')).strip('-.')}"]
    return ["license: other", f"license_name: {license}", f"license_link: https://spdx.org/licenses/{license}.html"]

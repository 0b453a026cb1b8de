import json
import subprocess
import sys

import pytest


@pytest.mark.thorough
def test_it_answers_each_question_and_ends_with_its_input():
    questions = [{"what": "log", "rows": [[1, {"loss": 0.5}]]}, {"what": "nothing"}]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "eyespot.pretrain.tracking.wandb_process"],
        input="".join(json.dumps(question) + "\n" for question in questions),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()  # nothing has begun; nobody knows this
    assert first.startswith("AttributeError") and second.startswith("AttributeError")

"""The page shows what was found, asks no network, and lets no stranger's name act."""

import json
import re

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.curate import page as page_module
from eyespot.eval.curate.choosing import balance, retrieve
from eyespot.eval.curate.copies import Likeness, find_copies
from eyespot.eval.curate.curation import Encoder, Question
from eyespot.eval.curate.page import balance_sections, copy_sections, pictures, retrieval_sections, write_page
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def asked(path, out, verb):
    shards = ShardFolder.find(path)
    known = {"cache": None, "world": ALONE, "seed": 0, "settings": {"bits": 6}}
    question = Question(verb=verb, shards=shards, start=np.arange(shards.manifest.num_samples), out=out, **known)
    question.begin()
    return question


def test_groups_of_copies(planted, tmp_path):
    shards, names, _ = planted
    question = asked(shards.path, tmp_path, "duplicates")
    found = find_copies(question, Likeness(bits=6, correlation=0.9, mirrored=True, cosine=0.99), None, None)
    page = write_page(tmp_path, copy_sections(found)).read_text()
    for expected in ("Bytes", "Picture", "Mirrored", "dropped: mirrored"):
        assert expected in page
    assert f"kept: {names['0010']}" in page  # of which a smaller copy goes
    assert len(re.findall("data:image/webp", page)) == 19 and "Features</h2>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "default-src 'none'" in page


def test_clusters_and_neighbours(run_dir, digits, tmp_path):
    encoder = Encoder.of(str(run_dir), "", tmp_path / "cache")
    question = asked(digits / "test", tmp_path / "even", "balance")
    found = balance(question, encoder, (30, 4), 0, 60)
    page = write_page(question.out, balance_sections(question.shards, question.start, found)).read_text()
    assert page.count("samples, ") >= 4 and "Classes" in page and "mae_tiny, step 12" in page
    question = asked(digits / "test", tmp_path / "near", "retrieve")
    seeds = question.shards
    near = retrieve(question, encoder, seeds, np.array([7, 9]), each=3, keep=None, cosine=-1.0)
    page = write_page(question.out, retrieval_sections(seeds, seeds, near)).read_text()
    assert "seed 7" in page and "7 (1.000)" in page


def test_a_lone_picture_is_no_larger_than_others():
    plates = [page_module._plate([torch.zeros(3, 96, 96)] * count, [], "", "")[0] for count in (1, 8)]
    assert plates[0].width == plates[1].width and plates[0].columns == plates[1].columns == 8
    pair = page_module._plate([torch.zeros(3, 96, 96)] * 2, ["a", "b"], "", "", columns=4)[0]
    assert pair.columns == len(pair.heads) == 4 and page_module._plate([None], [], "", "") == []


def test_a_strangers_name_is_text(planted, tmp_path):
    shards, *_ = planted
    question = asked(shards.path, tmp_path, "duplicates")
    found = find_copies(question, Likeness(bits=6, correlation=0.9, mirrored=True, cosine=0.99), None, None)
    told = json.loads((tmp_path / "provenance.json").read_text())
    told["shards"]["name"] = "<script>alert(1)</script>\x1b"
    (tmp_path / "provenance.json").write_text(json.dumps(told))
    page = write_page(tmp_path, copy_sections(found)).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write_page(tmp_path, [])


def test_pictures_are_squares(planted):
    shards, *_ = planted
    found = pictures(shards, range(59))
    assert len(found) == 59 and {each.shape for each in found} == {(3, 96, 96)} and max(map(float, found[0][0, 0])) <= 1

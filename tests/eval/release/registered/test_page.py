from pathlib import Path

from eyespot.eval.release.registered import page


def test_a_card_that_is_too_long_is_cut_between_sections(released: Path, tmp_path: Path):
    text = page.version_text("digits", "3", released, "get-artifact?path=picture.png&run_uuid=a")
    assert text.startswith("# ") and 'load_model("models:/digits/3")' in text and "](get-artifact?" in text
    assert "library_name" not in text and text.index("## In one line") < text.index("## Numbers") < text.index("## Use")
    assert len(text) <= page.LONGEST
    card = (released / "README.md").read_text()
    for name in ("README.md", "provenance.json"):
        (tmp_path / name).write_bytes((released / name).read_bytes())
    (tmp_path / "README.md").write_text(f"{card}\n\n## Long\n\n{'word ' * 2000}")
    cut = page.version_text("digits", "3", tmp_path, None)
    assert len(cut) <= page.LONGEST and "word word" not in cut and cut.endswith("among the artifacts.")


def test_what_a_version_is_found_by(released: Path):
    tags = page.version_tags(released)
    assert tags["license"] and tags["step"].isdigit() and tags["architecture"]

"""What lies beside an image belongs to it by its name; where that says nothing, it is counted."""

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.found_files import FoundFile, parts_of
from eyespot.data_pipeline.shards.members.side_files import beside, depth_beside
from eyespot.data_pipeline.shards.members.skipped import Tally


def test_names_decide():
    images = ["a/1.jpg", "a/1.b.jpg", "a/2.png", "b/2.png", "b/3.jpg", "b/3.png"]
    others = ["a/1.TXT", "a/1.b.txt", "b/2.txt", "b/3.txt", "b/README.txt", "a/1.txt"]
    places = {name: Place(name, 0, 1) for name in others}
    skipped = Tally()
    found = beside(images, list(places.items()), skipped, "set.tar/")
    assert [[place.path for _, place in each] for each in found] == [
        ["a/1.TXT"],
        ["a/1.b.txt"],
        [],
        ["b/2.txt"],
        [],
        [],
    ]
    assert all(extension == "txt" for each in found for extension, _ in each)
    assert {one.reason: one.examples for one in skipped.listed()} == {
        "several images have its name (.txt)": ["set.tar/b/3.txt"],
        "not an image (.txt)": ["set.tar/b/README.txt"],
        "another .txt of the same image": ["set.tar/a/1.txt"],
    }


def test_depth_maps_are_those_of_images_beside_them():
    names = ["a/1.jpg", "a/1.depth.png", "b/1.DEPTH.PNG", "b/1.png", "c/1.depth.png", "1.depth.png"]
    files = [FoundFile(name, parts_of(name), Place("", 0, 1)) for name in names]
    assert depth_beside(files) == {"a/1.depth.png", "b/1.DEPTH.PNG"}
    place = Place("", 0, 1)
    found = beside(["a/1.jpg", "a/1.depth.jpg"], [("a/1.depth.png", place)], Tally())
    assert found == [(("depth.png", place),), ()]

from moving_pictures import film, levels

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.decode import Wanted
from eyespot.data_pipeline.shards.video.decoded_videos import Cut, Video, decode_all, variable_rates


def video(path) -> Video:
    return Video(path.name, Place(str(path), 0, path.stat().st_size))


def wanted(fps=None, longest=None, *, sound=False) -> Cut:
    frames = Wanted(fps=fps, resize=None, max_pixels=2**20, max_frames=1000)
    return Cut(frames=frames, longest=longest, sound=sound)


def test_videos_become_samples_and_bad_ones_their_reason(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    videos = [
        video(film(tmp_path / "a.mp4", 30, rate=10, sound=3)),
        video(tmp_path / "text.mp4"),
        video(film(tmp_path / "b.mkv", 8, times=[0, 40, 80, 120, 500, 1000, 1040, 1080])),
    ]
    spool = tmp_path / "spool"
    long, bad, short = decode_all(videos, spool, wanted(fps=5.0, longest=1.0, sound=True), 2)
    assert bad.startswith("no video of a known container")
    assert [sample.name for sample in long] == [f"a.mp4#t={at:.3f},{at + 1:.3f}" for at in range(3)]
    assert [levels([place.read() for place in sample.frames]) for sample in long] == [
        list(range(at, at + 10, 2)) for at in (0, 10, 20)
    ]
    assert all(sample.rate == 5 and sample.sound.read().startswith(b"fLaC") for sample in long)
    assert len(short) == 2 and all(sample.sound is None for sample in short)
    assert variable_rates(videos, spool, wanted()) == []
    (whole,) = decode_all(videos[2:], spool, wanted(), 1)[0]
    assert whole.name == "b.mkv" and len(whole.frames) == 8
    assert variable_rates(videos[2:], spool, wanted()) == ["b.mkv"]


def test_what_is_decoded_is_not_decoded_again_unless_it_changed(tmp_path):
    spool, path = tmp_path / "spool", film(tmp_path / "a.mp4", 12)
    decode_all([video(path)], spool, wanted(), 1)
    (frames,) = spool.glob("*.frames")
    before = frames.stat().st_mtime_ns
    decode_all([video(path)], spool, wanted(), 1)
    assert frames.stat().st_mtime_ns == before
    frames.write_bytes(frames.read_bytes()[:-1])  # cut: decoded anew
    decode_all([video(path)], spool, wanted(), 1)
    assert frames.stat().st_mtime_ns != before and len(list(spool.glob("*.frames"))) == 1
    film(path, 13)
    ((sample,),) = decode_all([video(path)], spool, wanted(), 1)
    assert len(sample.frames) == 13 and len(list(spool.glob("*.frames"))) == 2
    (part,) = decode_all([video(path)], spool, wanted(fps=3.0), 1)
    assert len(part[0].frames) == 4 and len(list(spool.glob("*.frames"))) == 3

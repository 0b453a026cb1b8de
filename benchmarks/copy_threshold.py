"""Of how many bits may two hashes differ? Chosen on one half of the images, judged on the other.

    OMP_NUM_THREADS=1 python benchmarks/copy_threshold.py --data ../shared/data

Images are CIFAR-10's (train) and photographs (caltech10). Of some in each half copies are made: JPEG of quality 90 to
30, other sizes, brighter, mirrored. Recall = copies that ``curate duplicates --mirrored`` would match with their
original. Every other pair that it would match is looked at again at full size: two photographs never share their fine
detail (what a blur takes away), so where it correlates, after the best shift, in either direction, by ``SAME`` or more,
the data set came with a copy; all else is counted as wrong. How often that rule itself errs is told by the planted
copies and by pairs drawn by lot. Precision = images that go rightly, the copies among them, of all that go: it depends
on how many copies there are. Chosen is the least number of bits at which the choosing half finds 99% of the copies.
Intervals are Wilson's, 95%.
"""

import argparse
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from curation import KINDS, images_of
from PIL import Image
from results import write_results
from scipy.ndimage import gaussian_filter

from eyespot.eval.curate.picture_hashes import _shrunk, _standardised, hashed
from eyespot.eval.results.significance import wilson
from eyespot.eval.search.hamming import near_hashes

MOST, LEAST = 10, 0.9
"""Bits that are looked up, and the correlation of thumbnails that the command asks for."""
RECALL = 0.99
SAME = 0.6
"""Correlation of fine detail from which two files show one photograph. Of eight encoded anew as JPEG of quality 30, or
shrunk to three quarters, it was 0.92 to 1.00; of twelve random pairs 0.10 to 0.15; in between lie, for instance,
motorbikes on white."""
COPIES = [name for name in KINDS if name != "cropped to 90%"]


@dataclass(kw_only=True, slots=True)
class Looks:
    """Of many files: hashes, standardised thumbnails, and whether there is no contrast."""

    hashes: np.ndarray
    thumbs: np.ndarray
    flat: np.ndarray

    @classmethod
    def of(cls, files: list[bytes]) -> "Looks":
        hashes, flat, thumbs = hashed(np.stack([_shrunk(file) for file in files]))
        return cls(hashes=hashes, flat=flat, thumbs=thumbs.reshape(-1, 16, 16, 3).astype(np.float32))

    def correlation(self, a: np.ndarray, other: "Looks", b: np.ndarray, mirrored: bool) -> np.ndarray:
        left, right = self.thumbs[a], other.thumbs[b]
        right = right[:, :, ::-1] if mirrored else right
        return (_standardised(left.reshape(len(a), -1)) * _standardised(right.reshape(len(b), -1))).sum(1)


def detail(file: bytes, side: int) -> np.ndarray:
    """Its fine detail: gray pixels minus their blur, of mean 0 and length 1."""
    image = Image.open(io.BytesIO(file), formats=("JPEG", "PNG")).convert("L").resize((side, side), Image.BICUBIC)
    pixels = np.asarray(image, np.float64)
    found = pixels - gaussian_filter(pixels, side / 32)
    found *= np.hanning(side)[:, None] * np.hanning(side)
    return found / max(1e-9, float(np.linalg.norm(found)))


def shared_detail(one: bytes, other: bytes, side: int) -> float:
    """The largest correlation of their detail over all shifts and both directions."""
    left, right = detail(one, side), detail(other, side)
    pairs = [np.fft.irfft2(np.fft.rfft2(left) * np.fft.rfft2(each).conj()) for each in (right, right[:, ::-1])]
    return float(max(pair.max() for pair in pairs))


def matches(looks: Looks) -> dict[tuple[int, int], int]:
    """Pairs that pass the thumbnails, and the bits by which their hashes differ."""
    found: dict[tuple[int, int], int] = {}
    rows = np.flatnonzero(~looks.flat)
    for column in (0, 1):
        for a, b, bits in near_hashes(looks.hashes[rows, 0], looks.hashes[rows, column], MOST):
            a, b, bits = rows[a][a < b], rows[b][a < b], bits[a < b]
            for start in range(0, len(a), 4096):
                part = slice(start, start + 4096)
                alike = looks.correlation(a[part], looks, b[part], column == 1) >= LEAST
                kept = (each[part][alike].tolist() for each in (a, b, bits))
                for left, right, distance in zip(*kept, strict=True):
                    found[left, right] = min(distance, found.get((left, right), 99))
    return found


def half(images: list[tuple[str, bytes]], num_copies: int, side: int, rng: np.random.Generator) -> dict[str, Any]:
    """Bits of each copy to its original (99: never matched), and of each pair that nobody planted, with the truth."""
    files, classes = [file for _, file in images], [name for name, _ in images]
    looks, copies, known = Looks.of(files), {}, []
    for kind in COPIES:
        chosen, change = rng.permutation(len(files))[:num_copies], KINDS[kind]
        made = [files[i] if change is None else change(Image.open(io.BytesIO(files[i]))) for i in chosen.tolist()]
        other, bits = Looks.of(made), np.full(len(chosen), 99)
        rows = np.arange(len(chosen))
        for column in (0, 1):
            distance = np.bitwise_count(looks.hashes[chosen, 0] ^ other.hashes[:, column]).astype(int)
            alike = looks.correlation(chosen, other, rows, column == 1) >= LEAST
            bits = np.where(alike & ~looks.flat[chosen] & ~other.flat, np.minimum(bits, distance), bits)
        copies[kind] = bits
        known += [shared_detail(files[i], copy, side) >= SAME for i, copy in zip(chosen.tolist(), made, strict=True)]
    lot = [rng.choice(len(files), 2, replace=False).tolist() for _ in range(len(known))]
    by_lot = [files[a] == files[b] or shared_detail(files[a], files[b], side) >= SAME for a, b in lot]
    pairs = []
    for (a, b), bits in matches(looks).items():
        same = files[a] == files[b] or shared_detail(files[a], files[b], side) >= SAME
        pairs.append((bits, same, classes[a] != classes[b], a, b))
    rule = {"copies": known, "by lot": by_lot}
    return {"copies": copies, "pairs": pairs, "images": len(files), "files": files, "rule": rule}


def figures(found: dict[str, Any], bits: int) -> dict[str, float]:
    """At so many bits: recall, matches that nobody planted, how many of these are wrong, precision over all."""
    right = sum(int((each <= bits).sum()) for each in found["copies"].values())
    planted = sum(len(each) for each in found["copies"].values())
    near = [pair for pair in found["pairs"] if pair[0] <= bits]
    gone, rightly = ({pair[4] for pair in near if pair[1] or not only} for only in (False, True))
    return {
        "recall": right / planted,
        "copies": right,
        "planted": planted,
        "others": len(gone),
        "wrong": len(gone - rightly),
        "other class": len({pair[4] for pair in near if pair[2]}),
        "images": found["images"],
    }


def share(count: int, total: int) -> str:
    """In percent, with its interval."""
    low, high = wilson(count, total)
    return f"{100 * count / max(1, total):.2f}% ({100 * low:.2f} to {100 * high:.2f}; {count:,} of {total:,})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000, help="of each set, by lot")
    parser.add_argument("--sets", nargs="+", choices=("cifar10", "caltech10"), default=("cifar10", "caltech10"))
    parser.add_argument("--copies", type=int, default=300, help="of each kind, in each half")
    parser.add_argument("--show", type=Path, help="a folder for the pairs that are matched at 6 bits, as pictures")
    asked = parser.parse_args()
    rows, details, rng = [], {}, np.random.default_rng(0)
    known: dict[str, tuple[str, str, str, int]] = {
        "cifar10": ("CIFAR-10, 32 px", "cifar10-images.tar.gz", "train", 32),
        "caltech10": ("photographs (caltech10)", "caltech10-images.tar", "", 128),
    }
    for name, archive, split, side in (known[key] for key in asked.sets):
        images = images_of(asked.data / archive, split)
        every = [(label, content) for label, each in images.items() for _, content in each]
        order = rng.permutation(len(every))[: asked.images].tolist()
        halves = {
            part: half([every[i] for i in order[start::2]], asked.copies, side, rng)
            for start, part in enumerate(("choosing", "judging"))
        }
        for part, found in halves.items():
            for bits in range(2, MOST + 1, 2):
                one = details[f"{name}, {part}, {bits} bits"] = figures(found, bits)
                right, others = one["copies"], one["others"]
                rows.append(
                    [
                        name,
                        f"{part}, {found['images']:,} images",
                        str(bits),
                        share(right, one["planted"]),
                        f"{others} ({one['wrong']} wrong, {one['other class']} for one of another class)",
                        share(one["wrong"], found["images"]),
                        share(right + others - one["wrong"], right + others),
                    ]
                )
        enough = [bits for bits in range(MOST + 1) if figures(halves["choosing"], bits)["recall"] >= RECALL]
        details[f"{name}, chosen"] = enough[:1]
        rows.append([name, f"chosen: {enough[0] if enough else 'none'}", *[""] * 5])
        for kind, bits in halves["judging"]["copies"].items():
            each = [f"{int((bits <= most).sum())} at {most}" for most in (4, 6, 8)]
            rows.append([name, f"judging, {kind}", "", f"of {len(bits)}: {', '.join(each)}", "", "", ""])
        for what, said in halves["judging"]["rule"].items():
            rows.append(
                [name, f"judging, the rule says one photograph: {what}", "", share(sum(said), len(said)), "", "", ""]
            )
            details[f"{name}, rule, {what}"] = [sum(said), len(said)]
        if asked.show:
            show(halves["judging"], asked.show / name.split()[0].strip(","))
    header = ["data", "half", "bits", "recall of planted copies", "other images that go", "images that go wrongly"]
    header += ["precision"]
    write_results(
        "copy_threshold", title="Recall and precision of the picture search", header=header, rows=rows,
        details={"figures": details},
    )  # fmt: skip


def show(found: dict[str, Any], folder: Path) -> None:
    """Pairs side by side, wrong ones first: whoever doubts the truth may look."""
    folder.mkdir(parents=True, exist_ok=True)
    near = sorted((pair for pair in found["pairs"] if pair[0] <= 6), key=lambda pair: (pair[1], -pair[0]))
    for right in (False, True):
        chosen = [pair for pair in near if pair[1] == right][:48]
        sheet = Image.new("RGB", (8 * 200, 6 * 110), "white")
        for number, (_bits, _, _, a, b) in enumerate(chosen):
            for place, row in enumerate((a, b)):
                image = Image.open(io.BytesIO(found["files"][row])).convert("RGB").resize((96, 96))
                sheet.paste(image, (number % 8 * 200 + place * 98, number // 8 * 110))
        sheet.save(folder / f"{'right' if right else 'wrong'}.png")


if __name__ == "__main__":
    main()

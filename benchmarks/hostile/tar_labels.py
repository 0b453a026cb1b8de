"""Tars whose ``.cls`` members say odd things."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.accounts import indexed
from hostile.case import Case, Room, Wants
from hostile.tar_entries import jpeg, of_entries

Contents = list[bytes | None]
DISTINCT = [b"caf\xe9", b"caf\xe8", b"caf\xe9", b"caf\xe8"]
HUGE = b"x" * 100_000


def label_cases() -> list[Case]:
    """For each list of contents a tar with as many images."""

    def entries(contents: Contents, suffix: str) -> Callable[[Room], list[tuple[Any, bytes]]]:
        def make(room: Room) -> list[tuple[Any, bytes]]:
            pairs = [((f"{n:03d}.jpg", jpeg(room)), (f"{n:03d}.{suffix}", text)) for n, text in enumerate(contents)]
            return [(name, text) for pair in pairs for name, text in pair if text is not None]

        return make

    def labels(*found: str | None) -> Callable[[Path, str], str]:
        return indexed({f"{n:03d}.jpg": label for n, label in enumerate(found)})

    numbers: list[Contents] = [[b"%d" % number for number in (9, 10, 2, 0)]]
    table: dict[str, tuple[Wants, Contents, Any, str]] = {
        "minus-one": ("taken", [b"3", b"-1", b"0", b"-1"], labels("3", None, "0", None), "cls"),
        "all-minus-one": ("taken", [b"-1"] * 3, labels(None, None, None), "cls"),
        "empty": ("taken", [b"cat", b"", b"dog"], labels("cat", None, "dog"), "cls"),
        "blank": ("taken", [b"cat", b" \n", b"dog"], labels("cat", None, "dog"), "cls"),
        "newline": ("taken", [b"1\n", b"0\n"], labels("1", "0"), "cls"),
        "newline-of-windows": ("taken", [b"1\r\n", b"0\r\n"], labels("1", "0"), "cls"),
        "byte-order-mark": ("either", [b"\xef\xbb\xbf1", b"\xef\xbb\xbf0"], indexed(), "cls"),
        "utf-16": ("either", ["cat".encode("utf-16"), "dog".encode("utf-16")], indexed(), "cls"),
        "numbers-sort": ("taken", numbers[0], _sorted_numbers, "cls"),
        "numbers-and-minus-one-sort": ("taken", [*numbers[0], b"-1"], _sorted_numbers, "cls"),
        "leading-zeros": ("either", [b"007", b"010"], indexed(), "cls"),
        "float": ("either", [b"3.0", b"1.0"], indexed(), "cls"),
        "minus-five": ("either", [b"-5", b"3"], indexed(), "cls"),
        "arabic-digits": ("either", ["\u0663".encode(), "\u0661".encode()], indexed(), "cls"),
        "10^30": ("either", [b"1" + b"0" * 30, b"1"], indexed(), "cls"),
        "10^5000": ("either", [b"1" + b"0" * 5000, b"1"], indexed(), "cls"),
        "500-million": ("either", [b"500000000", b"1"], indexed(), "cls"),
        "a-million": ("either", [b"1000000", b"1"], indexed(), "cls"),
        "numbers-and-names": ("either", [b"3", b"cat"], indexed(), "cls"),
        "escapes": ("either", [b"\x1b[31mcat", b"dog"], indexed(), "cls"),
        "lines": ("either", [b"cat\ndog", b"bird"], indexed(), "cls"),
        "nul": ("either", [b"ca\0t", b"dog"], indexed(), "cls"),
        "very-long": ("either", [HUGE, b"dog"], indexed(), "cls"),
        "50-mb": ("either", [b"x" * 50_000_000, b"dog"], indexed(), "cls"),
        "latin1-told-apart": ("either", [*DISTINCT], _two_classes, "cls"),
        "for-some-only": ("taken", [b"cat", b"dog", None, None], labels("cat", "dog", None, None), "cls"),
        "uppercase-suffix": ("either", [b"cat", b"dog"], labels("cat", "dog"), "CLS"),
        "json-text": ("either", [b'{"label": 3}', b'{"label": 4}'], indexed(), "cls"),
        "pickle": ("either", [b"\x80\x04K\x03.", b"\x80\x04K\x04."], indexed(), "cls"),
    }
    return [
        Case(kind="labels", name=name, wants=wants, make=of_entries(entries(contents, suffix)), lost=lost)
        for name, (wants, contents, lost, suffix) in table.items()
    ]


def _classes(room: Path) -> list[str]:
    import json

    return json.loads((room / "data" / "manifest.json").read_bytes())["classes"]


def _sorted_numbers(room: Path, said: str) -> str:
    found = [int(name) for name in _classes(room)]
    wrong = indexed({"000.jpg": "9", "001.jpg": "10", "002.jpg": "2", "003.jpg": "0"})(room, said)
    return wrong or ("" if found == sorted(found) and -1 not in found else f"classes {found}")


def _two_classes(room: Path, said: str) -> str:
    found = _classes(room)
    return "" if len(found) == 2 else f"two classes became {found}"

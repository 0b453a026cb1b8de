"""Links of a file, as a repository's host follows them, made links between pages of the site."""

import posixpath
import re
from collections.abc import Mapping

_CODE = re.compile(
    r"(^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)[ \t]*$|(?P<tick>`+)(?!`).*?(?<!`)(?P=tick)(?!`))", re.M | re.S
)
_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s]+)(?P<after>[^)]*\))")


def rewritten(markdown: str, origin: str, uri: str, places: Mapping[str, str]) -> str:
    """Markdown whose links lead to pages.

    Args:
        markdown: of a file.
        origin: the file's path in the repository, from which its links are counted.
        uri: the page's path in the site.
        places: pages by what leads to them: the path of a file in the repository, or of a part of it ("a.md#part").
            What stands in docs/ and not here is where it is.
    """

    def outside_code(text: str) -> str:
        return _LINK.sub(lambda found: f"{found['before']}{_led(found['target'])}{found['after']}", text)

    def _led(target: str) -> str:
        if re.match(r"[a-z][a-z0-9+.-]*:", target) or target.startswith("/"):
            return target
        path, _, part = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)) if path else origin
        if f"{file}#{part}" in places:
            found, anchor = places[f"{file}#{part}"], ""
        elif not path:
            return target
        else:
            found, anchor = places.get(file, file.removeprefix("docs/")), f"#{part}" if part else ""
            if found == file:  # neither a page nor in docs/: mkdocs says so
                return target
        return posixpath.relpath(found, posixpath.dirname(uri) or ".") + anchor

    parts, begin = [], 0
    for code in _CODE.finditer(markdown):
        parts += [outside_code(markdown[begin : code.start()]), code[0]]
        begin = code.end()
    return "".join([*parts, outside_code(markdown[begin:])])

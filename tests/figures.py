"""How nbval compares the text twins of figures: word for word, and number by number within the twin's own tolerance.

A pytest plugin: where it is loaded, nbval compares figures so.
"""

import re

from nbval.plugin import IPyNbCell

TWIN = re.compile(r"Figure \(numbers within (\d+)%\): ")
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")


def same_twin(saved: str, found: str) -> bool:
    """Whether two texts are twins of the same data.

    Words and quoted labels must agree. Numbers may differ by the saved twin's tolerance, as a share of the largest
    number of their line.
    """
    head = TWIN.match(saved)
    if head is None or not TWIN.match(found):
        return saved == found
    ours, theirs = saved.splitlines(), found.splitlines()
    if len(ours) != len(theirs) or ours[0] != theirs[0]:
        return False
    return all(_same_line(a, b, int(head[1]) / 100) for a, b in zip(ours[1:], theirs[1:], strict=True))


def _same_line(saved: str, found: str, tolerance: float) -> bool:
    (words, numbers), (other_words, others) = (_parts(text) for text in (saved, found))
    if words != other_words or len(numbers) != len(others):
        return False
    room = tolerance * max(map(abs, [*numbers, *others]), default=0)
    return all(abs(a - b) <= room + 1e-12 for a, b in zip(numbers, others, strict=True))


def _parts(line: str) -> tuple[str, list[float]]:
    """A line's words, with labels as they are and numbers left out; and the numbers outside of labels."""
    numbers: list[float] = []

    def keep(match: re.Match[str]) -> str:
        if match[0].startswith("“"):
            return match[0]
        numbers.append(float(match[0].replace(",", "")))
        return "#"

    return re.sub(rf"“[^”]*”|{NUMBER.pattern}", keep, line), numbers


_compare = IPyNbCell.compare_outputs


def _compare_with_twins(self: IPyNbCell, test: list, ref: list, skip_compare: tuple[str, ...] | None = None) -> bool:
    """nbval's comparison, in which the text twin of a figure agrees within the tolerance that it names."""
    pictures = [[output for output in side if "image/png" in output.get("data", {})] for side in (test, ref)]
    for found, saved in zip(*pictures, strict=False):
        if same_twin(saved["data"].get("text/plain", ""), found["data"].get("text/plain", "")):
            found["data"]["text/plain"] = saved["data"]["text/plain"]
    return _compare(self, test, ref, skip_compare)


IPyNbCell.compare_outputs = _compare_with_twins

"""How nbval compares the text twins of figures: word for word, and number by number within the twin's own tolerance."""

import re

TWIN = re.compile(r"Figure \(numbers within (\d+)%\): ")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


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

"""Cards: memory, bandwidth and arithmetic, from data sheets (`utils/data/cards.json`) or of one's own."""

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import Any

from utils.errors import InputError
from utils.files import records
from utils.formats import DTYPE_BITS, format_name
from utils.shapes import whole_number

MOST_CARDS = 100_000  # more are a slip of the keyboard


@dataclass(frozen=True)
class Hardware:
    """One card."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes a second from its memory
    peak: dict[str, float]  # dense FLOP/s (or integer operations), by format; one of 16 or 32 bit is needed
    source: str = "its owner"  # of the numbers
    link: float | None = None  # bytes a second from other cards, if known; `plan` counts links when asked to
    reserve: float = 0.05  # share of the memory that driver, libraries or system take
    status: str = "its owner's"  # how sure the numbers are, in the words of `utils.catalog`

    def __post_init__(self) -> None:
        peaks = self.peak.values() if isinstance(self.peak, dict) else [None]
        is_share = isinstance(self.reserve, Real) and 0 <= self.reserve < 1
        for field, right, needed in (
            ("memory", positive(self.memory), "in bytes, more than 0"),
            ("bandwidth", positive(self.bandwidth), "in bytes a second, more than 0"),
            ("peak", all(map(positive, peaks)), "as FLOP/s by format, more than 0"),
            ("link", self.link is None or positive(self.link), "in bytes a second, more than 0"),
            ("reserve", is_share, "as a share from 0 to below 1"),
        ):
            if not right:
                raise InputError(f"{self.name} needs its {field} {needed}; got {getattr(self, field)!r}")
        object.__setattr__(self, "peak", {format_name(name): speed for name, speed in self.peak.items()})
        if not any(DTYPE_BITS[name] >= 16 for name in self.peak):
            raise InputError(f"{self.name} needs a peak for bfloat16 or float16; got {', '.join(self.peak) or 'none'}")

    @property
    def room(self) -> float:
        """Bytes of its memory after the reserve."""
        return self.memory * (1 - self.reserve)

    def speed(self, name: str) -> float:
        """FLOP/s for weights of this format. What it lacks is multiplied in the next wider format that it has, of
        the same kind or of 16 bit: 4-bit integers run as W4A16 everywhere, FP8 as W8A16 on an A100."""
        kind = name.rstrip("0123456789")
        wider = [f"{kind}{size}" for size in (6, 8) if size >= DTYPE_BITS[name] and name != "int4"]
        usable = [name, *wider, "bfloat16", "float16", "float32"]
        return next(self.peak[found] for found in usable if found in self.peak)


def positive(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value < math.inf


HARDWARE = {record["name"]: Hardware(**record) for record in records("cards.json")}


def parse_hardware(hardware: Any, cards: Any = None) -> tuple[int, Hardware]:
    """Number of cards and card from "8xH200" or "2 x RTX 4090", or from "H200" or a `Hardware` with `cards` beside it.

    Raises InputError for what is not of that form, an unknown card, or numbers that contradict each other.
    """
    number, said, card = None if cards is None else whole_number("number of cards", cards), None, hardware
    if isinstance(hardware, str):
        found = re.fullmatch(r"(?:(-?\d+)\s*[x×*])?\s*([A-Za-z][\w -]*)", hardware.strip())
        if found is None:
            raise InputError(f"hardware must look like H200 or 8xH200; got {hardware!r}")
        said = found[1] and whole_number("number of cards", int(found[1]))
        card = next((card for name, card in HARDWARE.items() if _plain(name) == _plain(found[2])), None)
        if card is None:
            raise InputError(f"no hardware {found[2]!r}; there are {', '.join(HARDWARE)}")
        if said and number and number != said:
            raise InputError(f"number of cards is {said} in {hardware!r} and {number} beside it; say it once")
    elif not isinstance(hardware, Hardware):
        raise InputError(f"hardware must be text such as 8xH200, or a Hardware; got {hardware!r}")
    number = number or said or 1
    if number > MOST_CARDS:
        raise InputError(f"number of cards must be at most {MOST_CARDS:,}; got {number:,}")
    return number, card


def _plain(name: str) -> str:
    """A card's name without what people spell differently: case, spaces and dashes."""
    return re.sub(r"[\s_-]", "", name).lower()


def parse_card(text: str) -> Hardware:
    """A card of one's own from "name=…,memory=…,bandwidth=…,bf16=…", with numbers such as 24e9.

    `link`, `reserve` and peaks of other formats are possible as well. Raises InputError.
    """
    fields: dict[str, Any] = {"name": "own card", "memory": None, "bandwidth": None}
    for part in text.split(","):
        name, _, value = map(str.strip, part.partition("="))
        try:
            fields[name] = value if name == "name" and value else float(value)
        except ValueError as error:
            form = "name=mine,memory=24e9,bandwidth=1e12,bf16=1e14"
            raise InputError(f"a card must look like {form}; got {part!r}") from error
    given = {name: fields.pop(name) for name in ("name", "memory", "bandwidth", "link", "reserve") if name in fields}
    return Hardware(**given, peak=fields)

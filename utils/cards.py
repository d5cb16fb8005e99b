"""Cards: memory, bandwidth and arithmetic, from data sheets (`utils/data/cards.json`) or of one's own."""

import functools
import json
import math
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

from utils import shapes
from utils.errors import CourseError
from utils.formats import DTYPE_BITS, PUBLISHED, format_name

RESERVE = 0.05  # share of a card that driver and libraries take


class PlanError(CourseError, ValueError):
    """Something about the model, the hardware or the request does not fit; the message says what is allowed."""


@dataclass(frozen=True)
class Hardware:
    """One card.

    Attributes:
        name: "H100".
        memory: bytes.
        bandwidth: bytes a second from its memory.
        peak: dense arithmetic in FLOP/s (or integer operations), by format; one of 16 or 32 bit is needed.
        source: where the numbers come from.
        link: bytes a second that it can receive from other cards, if known. `plan` counts links when asked to.
        reserve: share of the memory that driver, libraries or system take.
        status: how sure the numbers are, in the words of `utils.catalog`.
    """

    name: str
    memory: float
    bandwidth: float
    peak: dict[str, float]
    source: str = "its owner"
    link: float | None = None
    reserve: float = RESERVE
    status: str = "its owner's"

    def __post_init__(self) -> None:
        for field in ("memory", "bandwidth"):
            if not positive(getattr(self, field)):
                unit = "in bytes" if field == "memory" else "in bytes a second"
                raise PlanError(f"{self.name} needs its {field} {unit}, more than 0; got {getattr(self, field)!r}")
        if not isinstance(self.peak, dict) or not all(map(positive, self.peak.values())):
            raise PlanError(f"{self.name} needs its peak as FLOP/s by format, more than 0; got {self.peak!r}")
        object.__setattr__(self, "peak", {precision_name(name): speed for name, speed in self.peak.items()})
        if not any(DTYPE_BITS[name] >= 16 for name in self.peak):
            raise PlanError(f"{self.name} needs a peak for bfloat16 or float16; got {', '.join(self.peak) or 'none'}")
        if self.link is not None and not positive(self.link):
            raise PlanError(f"{self.name} needs its link in bytes a second, more than 0; got {self.link!r}")
        if not isinstance(self.reserve, (int, float)) or not 0 <= self.reserve < 1:
            raise PlanError(f"{self.name} needs its reserve as a share from 0 to below 1; got {self.reserve!r}")

    @property
    def room(self) -> float:
        """Bytes of its memory after the reserve."""
        return self.memory * (1 - self.reserve)

    def speed(self, name: str) -> float:
        """FLOP/s for weights of this format. What it lacks is multiplied in the next wider format that it has, of
        the same kind or of 16 bit: 4-bit integers run as W4A16 everywhere, FP8 as W8A16 on an A100."""
        bits = DTYPE_BITS[name]
        wider = [f"{name.rstrip('0123456789')}{size}" for size in (4, 6, 8) if size >= bits] if name != "int4" else []
        sixteen = ["bfloat16", "float16", "float32"] if bits <= 16 else ["float32", "bfloat16", "float16"]
        return next(self.peak[found] for found in [name, *wider, *sixteen] if found in self.peak)


@functools.cache
def _cards() -> dict[str, Hardware]:
    text = resources.files("utils").joinpath("data", "cards.json").read_text(encoding="utf-8")
    return {record["name"]: Hardware(**record) for record in json.loads(text)}


def positive(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    try:
        return not isinstance(value, (bool, str)) and 0 < float(value) < math.inf
    except (TypeError, ValueError):
        return False


def precision_name(name: Any) -> str:
    """The key of `formats.DTYPE_BITS` that a format means. Raises PlanError if there is none."""
    try:
        return format_name(name)
    except shapes.ConfigError as error:
        raise PlanError(f"no precision {name!r}; there are {PUBLISHED}, {', '.join(DTYPE_BITS)}") from error


HARDWARE = _cards()


def parse_hardware(text: str) -> tuple[int, Hardware]:
    """Number of cards and card from "8xH200", "4*A100-80GB" or "2 x RTX 4090", or one card from "H200".

    Raises:
        PlanError: not of that form, no card, or an unknown one; the message lists the known ones.
    """
    found = re.fullmatch(r"(?:(-?\d+)\s*[x×*])?\s*([A-Za-z][\w -]*)", text.strip())
    if found is None:
        raise PlanError(f"hardware must look like H200 or 8xH200; got {text!r}")
    known, name = {_plain(name): card for name, card in HARDWARE.items()}, _plain(found[2])
    if name not in known:
        raise PlanError(f"no hardware {found[2]!r}; there are {', '.join(HARDWARE)}")
    return whole("number of cards", int(found[1] or 1)), known[name]


def parse_card(text: str) -> Hardware:
    """A card of one's own from "name=…,memory=…,bandwidth=…,bf16=…", with numbers such as 24e9.

    `link`, `reserve` and peaks of other formats are possible as well.

    Raises:
        PlanError: not of that form, or something is missing or no number.
    """
    fields: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            fields[name.strip()] = value.strip() if name.strip() == "name" else float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise PlanError(f"a card must look like name=mine,memory=24e9,bandwidth=1e12,bf16=1e14; got {part!r}")
    known = {name: fields.pop(name) for name in ("memory", "bandwidth", "link", "reserve") if name in fields}
    name = fields.pop("name", "own card")
    return Hardware(name=name, peak=fields, **{"memory": None, "bandwidth": None} | known)


def _plain(name: str) -> str:
    """A card's name without what people spell differently: case, spaces and dashes."""
    return re.sub(r"[\s_-]", "", name).lower()


def how_many(hardware: Any, cards: Any) -> tuple[int, Hardware]:
    """Number of cards and card from what `plan` is given. Raises PlanError if the numbers contradict each other."""
    number = None if cards is None else whole("number of cards", cards)
    if isinstance(hardware, Hardware):
        return number or 1, hardware
    if not isinstance(hardware, str):
        raise PlanError(f"hardware must be text such as 8xH200, or a Hardware; got {hardware!r}")
    said, card = parse_hardware(hardware)
    if number is not None and number != said and re.match(r"\s*-?\d+\s*[x×*]", hardware):
        raise PlanError(f"number of cards is {said} in {hardware!r} and {number} beside it; say it once")
    return number or said, card


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of Python or numpy. Raises PlanError if it is none or too small."""
    try:
        return shapes.whole_number(name, value, least)
    except shapes.ConfigError as error:
        raise PlanError(f"{name} must be a whole number of at least {least}; got {value!r}") from error

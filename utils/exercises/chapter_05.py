"""Exercises of chapter 05: absmax, bits a weight, the size of a whole model, zero point, decoding speed, E5M2."""

import math

from utils.exercises import Exercise, Mistake, Question


def _absmax(numbers: list, bits: int, top=lambda bits: 2 ** (bits - 1) - 1, whole=round, largest=abs) -> list:
    scale = max(map(largest, numbers)) / top(bits)
    return [whole(n / scale) for n in numbers]


def _range(low: float, high: float, steps: int = 255, widen: bool = True) -> tuple:
    if widen:
        low, high = min(low, 0), max(high, 0)
    scale = (high - low) / steps
    return scale, round(-low / scale)


def _e5m2(byte: int, shift: int = 15, tiny: bool = True, steps: int = 4) -> float:
    sign, exponent, mantissa = byte >> 7, byte >> 2 & 31, byte & 3
    size = (1 + mantissa / steps) * 2.0 ** (exponent - shift)
    if tiny and exponent == 0:
        size = mantissa / steps * 2.0 ** (1 - shift)
    return -size if sign else size


EXERCISES = (
    Exercise(
        id="05.1",
        level=1,
        minutes=5,
        hints=(
            "The scale is the largest absolute value divided by 2**(bits - 1) - 1.",
            "Divide every number by the scale, then round it.",
        ),
        solution="def quantize(numbers, bits):\n"
        "    scale = max(abs(n) for n in numbers) / (2 ** (bits - 1) - 1)\n"
        "    return [round(n / scale) for n in numbers]\n\n\nanswer = quantize",
        after="One large number decides how much is left of all the others.",
        mistakes=(
            Mistake(
                lambda numbers, bits: _absmax(numbers, bits, top=lambda b: 2**b - 1),
                "One of the bits is needed for the sign: the range ends at 2**(bits - 1) - 1.",
            ),
            Mistake(
                lambda numbers, bits: _absmax(numbers, bits, top=lambda b: 2 ** (b - 1)),
                "The largest number must become 2**(bits - 1) - 1: 128 does not fit into 8 bits with a sign.",
            ),
            Mistake(
                lambda numbers, bits: _absmax(numbers, bits, whole=int),
                "int() cuts off towards zero, which doubles the error. Round to the nearest integer.",
            ),
            Mistake(
                lambda numbers, bits: _absmax(numbers, bits, largest=lambda n: n),
                "A large negative number sets the scale, too: take the absolute values.",
            ),
        ),
        probes=(([0.4, -1.0, 0.26], 8), ([3.0, 1.0, -2.0, 0.4], 4), ([-40.0, 1.0, 0.0, 2.9], 5)),
    ),
    Exercise(
        id="05.2",
        level=1,
        minutes=4,
        hints=(
            "Count the bits of a whole group, then divide by the weights in it.",
            "(16 + 32 * 8) / 32",
        ),
        solution="answer = (16 + 32 * 8) / 32",
        after="The embedding in our GGUF file is stored that way: finer than the rest, since it is the head as well.",
        mistakes=(
            Mistake(8, "The scale is stored, too. 32 weights share its 16 bits."),
            Mistake(24, "Each weight does not have a scale of its own: 32 weights share one."),
            Mistake(34, "Those are the bytes of a group. How many bits is that for each of its 32 weights?"),
            Mistake(9, "That would be a scale and a minimum of 16 bits each. Q8_0 has only a scale."),
        ),
    ),
    Exercise(
        id="05.3",
        level=2,
        minutes=6,
        hints=(
            "All but the norms take 1 byte, the norms take 4. In FP32, everything takes 4.",
            "(134_515_008 - 35_136 + 4 * 35_136) / (4 * 134_515_008)",
        ),
        solution="everything, norms = 134_515_008, 35_136\n"
        "answer = (everything - norms + 4 * norms) / (4 * everything)",
        after="A quarter after all, but for the norms. It takes an embedding layer that can look up integers.",
        mistakes=(
            Mistake(
                (134_515_008 - 35_136 - 28_311_552 + 4 * (35_136 + 28_311_552)) / (4 * 134_515_008),
                "In that one the embedding is still in FP32. Here it is INT8.",
            ),
            Mistake(
                (134_515_008 - 35_136 + 4 * 35_136 + 28_311_552) / (4 * 134_515_008),
                "The head has no matrix of its own here: embedding and head share one.",
            ),
            Mistake(
                (134_515_008 - 35_136 + 4 * 35_136) / 134_515_008,
                "Divide by the bytes of FP32, 4 for each parameter.",
            ),
            Mistake(0.25, "Without the norms, yes. They stay in FP32, which shows in the fourth decimal."),
        ),
        tolerance=1e-4,
    ),
    Exercise(
        id="05.4",
        level=2,
        minutes=8,
        hints=(
            "Widen first: low = min(low, 0), high = max(high, 0).",
            "The scale is (high - low) / 255; low itself becomes the integer 0, so zero becomes round(-low / scale).",
        ),
        solution="def scale_and_zero(low, high):\n"
        "    low, high = min(low, 0), max(high, 0)\n"
        "    scale = (high - low) / 255\n"
        "    return scale, round(-low / scale)\n\n\nanswer = scale_and_zero",
        after="Zero must be exact: masks and padding are made of zeros.",
        mistakes=(
            Mistake(lambda low, high: _range(low, high, widen=False), "If zero lies outside of the range, widen it."),
            Mistake(
                lambda low, high: _range(low, high, steps=256),
                "256 integers have 255 steps between them.",
            ),
            Mistake(
                lambda low, high: (_range(low, high)[0], -_range(low, high)[1]),
                "The integer for zero is never negative: low itself becomes 0, and zero lies above.",
            ),
            Mistake(
                lambda low, high: (_range(low, high)[0], int(-min(low, 0) / _range(low, high)[0])),
                "int() cuts off. Round to the nearest integer.",
            ),
            Mistake(
                lambda low, high: (_range(low, high)[0], -min(low, 0) / _range(low, high)[0]),
                "The integer that stands for zero is a whole number: round it to the nearest.",
            ),
        ),
        probes=((-1.0, 1.55), (-3.0, 0.0), (2.0, 5.1), (-2.0, -1.0), (-1.0, 2.1), (-1.3, 0.9)),
    ),
    Exercise(
        id="05.5",
        level=2,
        minutes=6,
        hints=(
            "How many bytes does one token fetch? A weight in INT4 takes half a byte.",
            "50e9 / (7e9 / 2)",
        ),
        solution="answer = 50e9 / (7e9 * 4 / 8)",
        after="Batches help: the same bytes, fetched once, serve every sequence of the batch. Chapter 07 uses it.",
        mistakes=(
            Mistake(50e9 / 7e9, "That is the speed with one byte a weight, INT8."),
            Mistake(50e9 / (7e9 * 4), "That is 4 bytes a weight. INT4 has 4 bits."),
            Mistake(7e9 / 2 / 50e9, "Those are the seconds for one token. How many tokens fit into one second?"),
        ),
        tolerance=0.005,
    ),
    Exercise(
        id="05.6",
        level=3,
        minutes=10,
        hints=(
            "Cut the byte apart: sign = byte >> 7, exponent = byte >> 2 & 31, mantissa = byte & 3.",
            "(1 + mantissa / 4) * 2.0 ** (exponent - 15), and mantissa / 4 * 2.0 ** -14 if the exponent is 0.",
        ),
        solution="def e5m2(byte):\n"
        "    sign, exponent, mantissa = byte >> 7, byte >> 2 & 31, byte & 3\n"
        "    if exponent:\n"
        "        size = (1 + mantissa / 4) * 2.0 ** (exponent - 15)\n"
        "    else:\n"
        "        size = mantissa / 4 * 2.0**-14\n"
        "    return -size if sign else size\n\n\nanswer = e5m2",
        after="More range, up to 57,344, and coarser steps. It is the upper half of a 16-bit float.",
        mistakes=(
            Mistake(lambda byte: _e5m2(byte, shift=7), "The shift of E4M3 is 7; the one of E5M2 is 15, as given."),
            Mistake(
                lambda byte: _e5m2(byte, tiny=False),
                "Exponent 0 is special: no leading 1, and the power is -14. Byte 0 must give 0.",
            ),
            Mistake(lambda byte: _e5m2(byte, steps=8), "Two bits of mantissa count quarters, not eighths."),
            Mistake(lambda byte: math.fabs(_e5m2(byte)), "The first bit is the sign."),
        ),
        probes=((0,), (1,), (3,), (4,), (60,), (0x7B,), (0xBD,), (0x83,)),
    ),
)

QUIZ = (
    Question(
        text="One channel of a layer's input is 50 times louder than the others, in every token. Which repair fits?",
        options=(
            (
                "A scale for each token, not for the layer",
                "That shuts up a loud token. A loud channel sits in every row, so each token's scale is "
                "stretched by it.",
            ),
            (
                "Smoothing: divide it, and scale up its weights",
                "It moves half of the difficulty into the weights, and the product stays the same. Section 3 "
                "measures it.",
            ),
            (
                "A zero point, so that the range can move",
                "That helps if the numbers lie on one side of zero. Here the range is too wide, wherever it begins.",
            ),
        ),
        right="b",
    ),
    Question(
        text="You quantize weights to 4 bits, with a 16-bit scale for each group. What happens if the groups "
        "shrink from 128 to 32 weights?",
        options=(
            (
                "The error falls, and the file grows a little",
                "A small group has a smaller largest number. Its scale costs 16/32 bits a weight instead of 16/128.",
            ),
            (
                "The error falls, and the file keeps its size",
                "The scales are stored, too, and there are four times as many of them.",
            ),
            (
                "The error rises, as a group knows fewer weights",
                "A scale learns nothing from many weights; the largest one rules it. Fewer neighbours make it finer.",
            ),
        ),
        right="a",
    ),
    Question(
        text="The numbers of a block range from 0.01 to 100, and the small ones matter as much. Which format "
        "loses less?",
        options=(
            (
                "INT8, as its steps are even everywhere",
                "Even steps are the trouble: with 100 at the end, one step is about 0.8, and 0.01 becomes 0.",
            ),
            (
                "INT8, as it has more digits than FP8",
                "True near the largest number only. Beside an outlier the small ones fall to zero: see the "
                "outlier table of section 7.",
            ),
            (
                "FP8, as its steps grow with the numbers",
                "Its relative error is about the same for small and large numbers, as long as its range lasts.",
            ),
        ),
        right="c",
    ),
    Question(
        text="Embedding and head are separate matrices, each 10 % of a model. What does quantize_dynamic leave "
        "of its FP32 bytes?",
        options=(
            (
                "32.5 %: the embedding stays as it is",
                "The embedding is no nn.Linear: 10 % stay, and 90 % shrink to a quarter, 22.5 %.",
            ),
            (
                "25 %: all of it shrinks to a quarter",
                "The call takes nn.Linear only. The table of section 4 has the embedding at share 1.00.",
            ),
            (
                "40 %: embedding and head stay as they are",
                "The head is an nn.Linear and is quantized. Only the embedding stays.",
            ),
        ),
        right="a",
    ),
)

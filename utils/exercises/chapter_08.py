"""Exercises of chapter 08: shapes of the pieces, the price of all-reduces, layers and micro-batches, parcels."""

import math

from utils.exercises import Exercise, Mistake, Question


def _owners(choices: list, own: int) -> list:
    return [[expert // own for expert in chosen] for chosen in choices]


EXERCISES = (
    Exercise(
        id="08.1",
        level=1,
        minutes=5,
        hints=(
            "The column cut divides the outputs, the row cut divides the inputs.",
            "In (out, inp), the outputs stand first. // divides whole numbers.",
        ),
        solution="def shapes(out, inp, ranks):\n"
        "    return (out // ranks, inp), (out, inp // ranks)\n\n\nanswer = shapes",
        after="The names come from the formula's matrix, which is the transpose of what PyTorch stores.",
        mistakes=(
            Mistake(
                lambda out, inp, ranks: ((out, inp // ranks), (out // ranks, inp)),
                "Those two are swapped: a column of the formula's matrix is one output, and outputs stand first.",
            ),
            Mistake(
                lambda out, inp, ranks: ((out // ranks, inp // ranks),) * 2,
                "A cut divides one dimension only; the other one stays whole.",
            ),
            Mistake(
                lambda out, inp, ranks: ((out // ranks, inp), (out // ranks, inp)),
                "That is the column cut twice. The row cut divides the inputs.",
            ),
        ),
        probes=((1536, 576, 3), (64, 192, 4), (8, 2, 2)),
    ),
    Exercise(
        id="08.2",
        level=2,
        minutes=5,
        hints=(
            "Two all-reduces a layer: after attention and after the feed-forward network.",
            "layers * 2 * hidden * bytes of a number",
        ),
        solution="answer = 95 * 2 * 8192 * 2",
        after="Three megabytes for one token, in 190 messages that all wait for: this wants a fast connection.",
        mistakes=(
            Mistake(95 * 8192, "Each layer has two all-reduces, and each of their numbers takes 2 bytes."),
            Mistake(
                95 * 2 * 8192,
                "One factor 2 is missing: a layer has two all-reduces, and a BF16 number has 2 bytes.",
            ),
            Mistake(
                95 * 2 * 8192 * 4,
                "Twice too much: a number takes 2 bytes in BF16, and is handed over once, whatever a ring makes of it.",
            ),
            Mistake((95 * 2 + 1) * 8192 * 2, "The embedding's all-reduce lies outside of the layers."),
            Mistake(
                95 * 2 * 8192 * 2 * 2 * 3 // 4,
                "That is what a ring of 4 sends. The question is what a rank hands over: each number once.",
            ),
            Mistake(
                95 * 2 * 8192 * 2 * 2 * 7 // 8,
                "That is what a ring of 8 sends. The question is what a rank hands over: each number once, "
                "whatever the number of ranks.",
            ),
        ),
    ),
    Exercise(
        id="08.3",
        level=1,
        minutes=6,
        hints=(
            "layers // ranks is what each rank takes at least; layers % ranks are left over.",
            "The first layers % ranks ranks take one more.",
        ),
        solution="def deal(layers, ranks):\n"
        "    return [layers // ranks + (rank < layers % ranks) for rank in range(ranks)]\n\n\nanswer = deal",
        after="DeepSeek-V3 has 61 layers on 16 stages: somebody always takes one more, and the others wait for it.",
        mistakes=(
            Mistake(
                lambda layers, ranks: [layers // ranks] * ranks,
                "Count the layers: where they do not come out even, some are lost.",
            ),
            Mistake(
                lambda layers, ranks: [layers // ranks] * (ranks - 1) + [layers // ranks + layers % ranks],
                "One rank takes all that is left over, and every other one waits for it. Spread it.",
            ),
            Mistake(
                lambda layers, ranks: [layers // ranks + (r >= ranks - layers % ranks) for r in range(ranks)],
                "As even as possible, yes, but the first ranks take one more, not the last ones.",
            ),
        ),
        probes=((30, 4), (61, 16), (8, 4), (2, 3)),
    ),
    Exercise(
        id="08.4",
        level=2,
        minutes=8,
        hints=(
            "Solve (p - 1) / (m + p - 1) <= limit for m, then round up.",
            "m >= (p - 1) * (1 - limit) / limit. math.ceil rounds up.",
        ),
        solution="import math\n\n\n"
        "def micro_batches(stages, limit):\n"
        "    return math.ceil((stages - 1) * (1 - limit) / limit)\n\n\nanswer = micro_batches",
        after="Sixteen stages with a bubble of an eighth need 105 micro-batches: pipelines want large batches.",
        mistakes=(
            Mistake(
                lambda stages, limit: math.floor((stages - 1) * (1 - limit) / limit),
                "Rounded down, the bubble is above the limit.",
            ),
            Mistake(
                lambda stages, limit: round((stages - 1) * (1 - limit) / limit),
                "round() sometimes rounds down, and then the bubble is above the limit. Always round up.",
            ),
            Mistake(
                lambda stages, limit: math.floor((stages - 1) * (1 - limit) / limit) + 1,
                "Where the division comes out even, the bubble is just at the limit, and one more is not needed.",
            ),
            Mistake(
                lambda stages, limit: math.ceil((stages - 1) / limit),
                "That is the number of all time slots, m + p - 1.",
            ),
            Mistake(
                lambda stages, limit: math.ceil(stages * (1 - limit) / limit),
                "A pipeline of p stages waits p - 1 slots, not p.",
            ),
        ),
        # Limits that binary numbers hold exactly, so that no rounding error decides.
        probes=((4, 0.5), (16, 0.125), (3, 0.75), (8, 0.375), (3, 0.375), (2, 0.75)),
    ),
    Exercise(
        id="08.5",
        level=3,
        minutes=12,
        hints=(
            "expert // own is the rank of an expert.",
            "For each token, collect the ranks of its experts in a set, and take its own rank out.",
        ),
        solution="def parcels(choices, home, own):\n"
        "    ranks = [{expert // own for expert in chosen} - {here} for chosen, here in zip(choices, home)]\n"
        "    return sum(len(others) for others in ranks)\n\n\nanswer = parcels",
        after="V3 goes further: it lets a token choose experts on 4 machines at most (report, section 2.1.2).",
        mistakes=(
            Mistake(
                lambda choices, home, own: sum(
                    rank != here for row, here in zip(_owners(choices, own), home, strict=True) for rank in row
                ),
                "Two experts of a token on the same rank need one parcel, not two.",
            ),
            Mistake(
                lambda choices, home, own: sum(len(set(row)) for row in _owners(choices, own)),
                "A parcel to the token's own rank does not leave it.",
            ),
            Mistake(
                lambda choices, home, own: sum(
                    len({expert % own for expert in chosen} - {here})
                    for chosen, here in zip(choices, home, strict=True)
                ),
                "expert % own is the place on its rank. Its rank is expert // own.",
            ),
        ),
        probes=(
            ([[0, 1], [4, 5], [0, 7]], [0, 0, 1], 4),
            ([[0, 2, 9], [3, 5, 11]], [1, 0], 2),
            ([[6, 7, 1], [2, 3, 0]], [3, 0], 2),
        ),
    ),
)

QUIZ = (
    Question(
        text="In a tensor-parallel SwiGLU network, the ranks send nothing between gate/up and down. Why can "
        "they do without?",
        options=(
            (
                "The inner vector is too small to be worth it",
                "It is larger than the outer one: 1,536 against 576 in section 1. Size is not the reason.",
            ),
            (
                "A rank's rows of down need its own entries only",
                "Column cuts of gate and up make just the inner entries that the row cut of down needs. One sum"
                " at the end is enough.",
            ),
            (
                "The messages are saved up for the last layer",
                "The next layer needs the full sum. There are two all-reduces in every layer.",
            ),
        ),
        right="b",
    ),
    Question(
        text="Four cards serve one person who waits for one answer. Which cut brings the next token sooner, if "
        "messages are fast?",
        options=(
            (
                "Tensor parallel: all four work on this token",
                "Each layer is done by four cards at once. A pipeline has one card at work and three waiting.",
            ),
            (
                "A pipeline: it sends the fewest bytes by far",
                "It does, but the token still walks through all layers one by one. With one token, three cards wait.",
            ),
            (
                "Neither: each card does a quarter of the work",
                "The work is shared equally in both, but in a pipeline one after the other.",
            ),
        ),
        right="a",
    ),
    Question(
        text="A ring of 8 ranks all-reduces a tensor. You double the ranks to 16. What happens to the bytes "
        "that all of them send together?",
        options=(
            (
                "They grow from 14 to 30 times the tensor",
                "2(N - 1) times the tensor: 14 for 8 ranks, 30 for 16. Section 2 measures it on the wire.",
            ),
            (
                "They stay, as the pieces are half as large",
                "Pieces are halved, but twice as many ranks pass them on, and nearly twice as often.",
            ),
            (
                "They grow from 56 to 240 times the tensor",
                "That lets every rank send the whole tensor to every other one. A ring passes pieces to neighbours.",
            ),
        ),
        right="a",
    ),
    Question(
        text="In one layer, nearly all tokens choose experts that live on rank 2. What do the other ranks of "
        "the expert-parallel group do?",
        options=(
            (
                "They take over some of rank 2's experts",
                "An expert's weights lie on its rank only. The others could not compute it.",
            ),
            (
                "They go ahead with the next layer",
                "The next layer needs the results that rank 2 sends back. They cannot go ahead.",
            ),
            (
                "They wait until rank 2 has sent all results",
                "The slowest rank sets the pace of every layer. That is why load balance matters (chapter 04).",
            ),
        ),
        right="c",
    ),
)

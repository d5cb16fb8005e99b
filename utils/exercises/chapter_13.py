"""Exercises of chapter 13: activated share, touched experts, early exit, draft rounds, and slices."""

from utils.exercises import Exercise, Mistake, Question


def _leave(confidences: list, depths: list, last: int, sure) -> int:
    return next((depth for confidence, depth in zip(confidences, depths, strict=True) if sure(confidence)), last)


def _leading(draft: list, says: list) -> int:
    matches = 0
    while matches < len(draft) and draft[matches] == says[matches]:
        matches += 1
    return matches


EXERCISES = (
    Exercise(
        id="13.1",
        level=1,
        minutes=4,
        hints=(
            "First take away what every token uses.",
            "0.4 billion are left for experts of 0.2 billion each.",
        ),
        solution="answer = round((1.0 - 0.6) / 0.2)",
        after="The size is easy to reach. It would be 1 billion in every text, short or long.",
        mistakes=(
            Mistake(5, "5 experts alone are 1 billion. The 0.6 billion that every token uses come on top."),
            Mistake(117, "All 117 experts together with the rest are the full 24 billion."),
            Mistake(0.4, "Those are the billions left for experts. How many experts of 0.2 billion fit in?"),
        ),
    ),
    Exercise(
        id="13.2",
        level=2,
        minutes=8,
        hints=(
            "One token misses a given expert with probability 1 - chosen / experts.",
            "All tokens miss it with (1 - chosen / experts) ** tokens.",
        ),
        solution="def touched_experts(experts, chosen, tokens):\n"
        "    return experts * (1 - (1 - chosen / experts) ** tokens)\n\n\nanswer = touched_experts",
        after="Of V3's 256 experts a layer, 8 a token, a hundred tokens already need about 245.",
        mistakes=(
            Mistake(
                lambda experts, chosen, tokens: min(experts, chosen * tokens),
                "Tokens often choose experts that others have chosen already: this counts them twice.",
            ),
            Mistake(
                lambda experts, chosen, tokens: 1 - (1 - chosen / experts) ** tokens,
                "That is the probability for one expert. There are several.",
            ),
            Mistake(
                lambda experts, chosen, tokens: experts * (1 - chosen / experts) ** tokens,
                "Those are the experts that nobody has chosen.",
            ),
        ),
        probes=((16, 2, 1), (16, 2, 8), (256, 8, 100)),
        tolerance=1e-6,
    ),
    Exercise(
        id="13.3",
        level=1,
        minutes=6,
        hints=(
            "Go through confidences and depths together, from the first exit on.",
            "Return the depth at the first confidence >= threshold; after the loop, return last.",
        ),
        solution="def leaves_at(confidences, depths, last, threshold):\n"
        "    for confidence, depth in zip(confidences, depths):\n"
        "        if confidence >= threshold:\n"
        "            return depth\n"
        "    return last\n\n\nanswer = leaves_at",
        after="The later exits are never computed: a token cannot know that it would have been surer there.",
        mistakes=(
            Mistake(
                lambda confidences, depths, last, threshold: _leave(confidences, depths, last, lambda c: c > threshold),
                "A confidence that just reaches the threshold is enough.",
            ),
            Mistake(
                lambda confidences, depths, last, threshold: depths[confidences.index(max(confidences))],
                "That is the surest exit. The token takes the first one that is sure enough.",
            ),
            Mistake(
                lambda confidences, depths, last, threshold: _leave(
                    confidences, range(len(depths)), last, lambda c: c >= threshold
                ),
                "That is the number of the exit. Return its layer.",
            ),
        ),
        probes=(
            ([0.2, 0.7, 0.9], [6, 12, 18], 30, 0.7),
            ([0.2, 0.3, 0.4], [6, 12, 18], 30, 0.9),
            ([0.95, 0.5, 0.99], [6, 12, 18], 30, 0.9),
        ),
    ),
    Exercise(
        id="13.4",
        level=2,
        minutes=6,
        hints=(
            "Count how many tokens of the draft agree with says before the first that does not.",
            "The text gains says[: count + 1]: the accepted ones and the model's own next token.",
        ),
        solution="def gained(draft, says):\n"
        "    count = 0\n"
        "    while count < len(draft) and draft[count] == says[count]:\n"
        "        count += 1\n"
        "    return says[: count + 1]\n\n\nanswer = gained",
        after="Even a hopeless draft gains one token a round: it costs time, never quality.",
        mistakes=(
            Mistake(
                lambda draft, says: says[: _leading(draft, says)],
                "The model's own token after the accepted ones is right, too, and it is free.",
            ),
            Mistake(
                lambda draft, says: says[: sum(a == b for a, b in zip(draft, says, strict=False)) + 1],
                "After the first mistake, the rest of the draft follows a wrong text: it does not count.",
            ),
            Mistake(
                lambda draft, says: draft[: _leading(draft, says) + 1],
                "The last token must be what the model says, not what was drafted.",
            ),
        ),
        probes=(([5, 7, 9], [5, 7, 8, 1]), ([5, 7, 9], [5, 7, 9, 2]), ([5, 7, 9], [4, 7, 9, 2]), ([5, 7], [5, 8, 1])),
    ),
    Exercise(
        id="13.5",
        level=2,
        minutes=6,
        hints=(
            "Try them all: max(range(1, 11), key=...).",
            "max(range(1, 11), key=lambda n: speed_up(0.8, 0.1, n))",
        ),
        solution="def speed_up(a, d, n):\n"
        "    return sum(a**i for i in range(n + 1)) / (1 + n * d)\n\n\n"
        "answer = max(range(1, 11), key=lambda n: speed_up(0.8, 0.1, n))",
        after="Each further draft token counts only if all before it were right, but it always costs.",
        mistakes=(
            Mistake(10, "The tenth draft token counts only if nine before it were right. That is rare, and it costs."),
            Mistake(1, "One draft token pays here, but a second one pays as well."),
            Mistake(7, "Did the model's own token count? It is the 1 in 1 + a + a**2 + ... + a**n."),
        ),
    ),
    Exercise(
        id="13.6",
        level=3,
        minutes=8,
        hints=(
            "A SwiGLU network has three matrices between hidden size and width. Only they shrink.",
            "Three quarters of 30 * 3 * 576 * 1536 parameters go.",
        ),
        solution="answer = 134_515_008 - 30 * 3 * 576 * (1536 - 1536 // 4)",
        after="A quarter of the width leaves more than half of the model: embedding and attention stay as they are.",
        mistakes=(
            Mistake(134_515_008 // 4, "Only the feed-forward networks shrink. Embedding and attention stay whole."),
            Mistake(
                134_515_008 - 30 * 2 * 576 * (1536 - 1536 // 4),
                "A SwiGLU network has three matrices: gate, up and down.",
            ),
            Mistake(
                134_515_008 - 30 * 3 * 576 * (1536 // 4),
                "That takes a quarter away. A quarter should remain.",
            ),
        ),
    ),
)

QUIZ = (
    Question(
        text="Two exits are sure equally often. A agrees with the full model on 55 % of tokens; of its sure guesses,"
        " 97 % are right. B: 70 %, and 75 %. Which one serves early exit better?",
        options=(
            (
                "B, as it agrees on more of all the tokens",
                "Unsure tokens go on to the end anyway. What counts are those that leave.",
            ),
            (
                "Neither, as both often disagree with the end",
                "An exit need not know everything early. Tokens of which it is unsure do not leave.",
            ),
            (
                "A, as it can be trusted whenever it is sure",
                "Only sure tokens leave, so an exit must know when it knows.",
            ),
        ),
        right="c",
    ),
    Question(
        text="A draft token costs 40 % of a full pass and is accepted with probability 0.35. Would four drafts "
        "a round pay, in place of one?",
        options=(
            (
                "No: the acceptance is lower than the cost",
                "Each further draft adds at most 0.35 of a token and costs 0.4 of a pass. If one does not pay, "
                "more do not.",
            ),
            (
                "Yes: four of them bring 1.4 tokens more",
                "The second draft counts only if the first was right, and so on. Four bring about half a token.",
            ),
            (
                "Yes: four share one pass of verification",
                "The verification is one pass with one draft as well. Each draft token still costs 40 % of a pass.",
            ),
        ),
        right="a",
    ),
    Question(
        text="You will only ever use the full width of a network. How do you best spend a fixed number of "
        "training steps?",
        options=(
            (
                "Nested, as each size also trains the others",
                "That buys one network for all sizes. At full width, section 6 finds the plainly trained model ahead.",
            ),
            (
                "All steps at full width, without nesting",
                "Nesting has a price: three of four steps serve the smaller sizes.",
            ),
            (
                "All steps at a small width, then widen it",
                "A channel that was never trained holds random numbers. It has to be trained to be of use.",
            ),
        ),
        right="b",
    ),
    Question(
        text="A token leaves after layer 18 of 30. What is missing when later tokens are computed?",
        options=(
            (
                "Nothing, as its next word is known already",
                "Its word is known, but later tokens look back at it in every layer.",
            ),
            (
                "Its keys and values in layers 19 to 30",
                "That is the hole in the cache. Copying its vector upwards fills it with wrong keys, and "
                "section 4 measures the price.",
            ),
            (
                "Its keys and values in layers 1 to 18",
                "It ran through these layers and left keys and values there. The later layers have none.",
            ),
        ),
        right="b",
    ),
)

"""Exercises of chapter 02: RMSNorm, RoPE, the latent cache, V3's router and the gain of a draft."""

import math

from utils.exercises import Exercise, Mistake, Question


def _choose(scores, bias, groups, keep, k, *, by_sum_of=2, closed=-math.inf):
    """V3's choice; the keyword arguments make typical mistakes."""
    wanted = [s + b for s, b in zip(scores, bias, strict=True)]
    size = len(wanted) // groups
    worth = [sum(sorted(wanted[g * size : (g + 1) * size])[-by_sum_of:]) for g in range(groups)]
    kept = sorted(range(groups), key=lambda g: worth[g])[-keep:]
    left = [w if e // size in kept else closed for e, w in enumerate(wanted)]
    return sorted(sorted(range(len(left)), key=lambda e: left[e])[-k:])


EXERCISES = (
    Exercise(
        id="02.1",
        level=1,
        minutes=5,
        hints=(
            "First the mean of the squares, then its square root, then divide each number by it.",
            "rms = (sum(n * n for n in numbers) / len(numbers)) ** 0.5",
        ),
        solution="def rms_norm(numbers):\n"
        "    rms = (sum(n * n for n in numbers) / len(numbers)) ** 0.5\n"
        "    return [n / rms for n in numbers]\n\n\nanswer = rms_norm",
        after="Every vector leaves with the same length. A learned gain then says how much each component matters.",
        mistakes=(
            Mistake(
                lambda numbers: [n / sum(m * m for m in numbers) ** 0.5 for n in numbers],
                "That makes the sum of the squares 1. RMSNorm makes their mean 1: divide by how many there are.",
            ),
            Mistake(
                lambda numbers: [n / (sum(m * m for m in numbers) / len(numbers)) for n in numbers],
                "The square root is missing.",
            ),
            Mistake(
                lambda numbers: [
                    (n - sum(numbers) / len(numbers))
                    / (sum((m - sum(numbers) / len(numbers)) ** 2 for m in numbers) / len(numbers)) ** 0.5
                    for n in numbers
                ],
                "That is LayerNorm. RMSNorm subtracts no mean.",
            ),
        ),
        probes=(([3.0, 4.0],), ([1.0, -2.0, 5.0],)),
    ),
    Exercise(
        id="02.2",
        level=1,
        minutes=4,
        hints=(
            "The speed of a pair is base to the power of minus 2 · pair / size.",
            "The angle is position times speed.",
        ),
        solution="def angle(position, pair, size, base):\n"
        "    return position * base ** (-2 * pair / size)\n\n\nanswer = angle",
        after="Pair 0 turns one radian a token; the last pair needs tens of thousands of tokens for one turn.",
        mistakes=(
            Mistake(
                lambda position, pair, size, base: position * base ** (2 * pair / size),
                "The sign of the exponent: later pairs turn more slowly, not faster.",
            ),
            Mistake(
                lambda position, pair, size, base: position * base ** (-pair / size),
                "A pair is two components: the exponent has 2 · pair.",
            ),
        ),
        probes=((0, 3, 64, 10_000.0), (5, 0, 64, 10_000.0), (7, 3, 16, 100.0)),
    ),
    Exercise(
        id="02.3",
        level=2,
        minutes=5,
        hints=(
            "Each layer keeps the latent and the RoPE key: 512 + 64 numbers.",
            "27 layers, 2 bytes a BF16 number.",
        ),
        solution="answer = 27 * (512 + 64) * 2",
        after="The 7B model of the first generation takes 491,520 bytes a token: sixteen times as much.",
        mistakes=(
            Mistake(27 * 512 * 2, "The RoPE key is cached as well: 64 more numbers a layer."),
            Mistake(27 * (512 + 64), "Those are numbers. A BF16 number takes 2 bytes."),
            Mistake(
                2 * 27 * (512 + 64) * 2,
                "There is one latent for keys and values together: the factor 2 of ordinary attention is not needed.",
            ),
            Mistake((512 + 64) * 2, "That is one layer. The model has 27."),
        ),
    ),
    Exercise(
        id="02.4",
        level=3,
        minutes=12,
        hints=(
            "Add the bias first. Then find out what each group is worth: the sum of its two largest numbers.",
            "Keep the best groups, drop the experts of all others, and take the k best of what is left.",
        ),
        solution="def choose(scores, bias, groups, keep, k):\n"
        "    wanted = [s + b for s, b in zip(scores, bias)]\n"
        "    size = len(wanted) // groups\n\n"
        "    def worth(group):\n"
        "        return sum(sorted(wanted[group * size : (group + 1) * size])[-2:])\n\n"
        "    kept = sorted(range(groups), key=worth)[-keep:]\n"
        "    experts = [e for e in range(len(wanted)) if e // size in kept]\n"
        "    return sorted(sorted(experts, key=lambda e: wanted[e])[-k:])\n\n\nanswer = choose",
        after="Groups exist because of machines: experts of one group share a node, and a token is sent to few nodes.",
        mistakes=(
            Mistake(
                lambda scores, bias, groups, keep, k: _choose(scores, bias, groups, groups, k),
                "Experts of groups that were dropped must not be chosen.",
            ),
            Mistake(
                lambda scores, bias, groups, keep, k: _choose(scores, [0] * len(scores), groups, keep, k),
                "The bias is missing: it counts for choosing.",
            ),
            Mistake(
                lambda scores, bias, groups, keep, k: _choose(scores, bias, groups, keep, k, closed=0),
                "Setting dropped experts to 0 does not close them: with negative biases, 0 is the largest number.",
            ),
            Mistake(
                lambda scores, bias, groups, keep, k: _choose(scores, bias, groups, keep, k, by_sum_of=1),
                "A group is worth the sum of its two best experts, not its best one.",
            ),
            Mistake(
                lambda scores, bias, groups, keep, k: _choose(scores, bias, groups, keep, k, by_sum_of=len(scores)),
                "A group is worth the sum of its two best experts, not of all.",
            ),
        ),
        probes=(
            ([0.9, 0.1, 0.1, 0.6, 0.5, 0.2, 0.3, 0.3, 0.35], [0.0] * 9, 3, 1, 2),
            ([0.9, 0.1, 0.5, 0.6, 0.7, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0], 4, 2, 3),
            ([0.9, 0.1, 0.2, 0.6, 0.6, 0.55, 0.5, 0.45, 0.44], [0.0] * 9, 3, 1, 2),
            ([0.95, 0.05, 0.0, 0.6, 0.5, 0.0, 0.4, 0.39, 0.38], [0.0] * 9, 3, 1, 2),
            ([0.2, 0.1, 0.3, 0.25], [-0.5, -0.5, -0.9, -0.9], 2, 1, 2),
        ),
    ),
    Exercise(
        id="02.5",
        level=2,
        minutes=5,
        hints=(
            "One pass gives one token for sure, and a second one with probability a.",
            "The time of one round is 1 + cost: the main pass takes as long for two positions as for one.",
        ),
        solution="def speed_up(a, cost):\n    return (1 + a) / (1 + cost)\n\n\nanswer = speed_up",
        after="With a = 0.85 and a small cost, this is V3's reported 1.8. It holds while decoding waits for memory: "
        "counted in work, a round costs 2 + cost, and a draft never pays.",
        mistakes=(
            Mistake(
                lambda a, cost: (1 + a) / (2 + cost),
                "That counts work. In time, the main model checks both positions in one pass: 1 + cost.",
            ),
            Mistake(lambda a, cost: 1 + a, "The draft is not free: divide by the time of one round."),
            Mistake(
                lambda a, cost: 1 + a - cost,
                "Time divides, it does not subtract: (tokens of a round) / (time of a round).",
            ),
            Mistake(lambda a, cost: a / (1 + cost), "The main model's own token counts as well: 1 + a tokens."),
            Mistake(lambda a, cost: 2 * a / (1 + cost), "A refused draft still leaves the main model's own token."),
        ),
        probes=((0.85, 0.03), (0.5, 0.2), (0.0, 0.1)),
    ),
)

QUIZ = (
    Question(
        text="A paragraph moves to a place 5,000 tokens later. Before RoPE turns them, its queries and keys are"
        " as they were. What happens to the scores within the paragraph?",
        options=(
            (
                "They shrink, as all the angles are larger",
                "Turning changes no length, and a score depends on the angle between query and key, not on each angle.",
            ),
            (
                "They stay, as only the distance counts",
                "Query and key turn on by the same angle. Section 2 shows it: 5 and 3 score as 105 and 103.",
            ),
            (
                "They vary, as fast pairs turn many times",
                "A fast pair turns often, but for query and key alike. The difference of their angles stays.",
            ),
        ),
        right="b",
    ),
    Question(
        text="A token uses the same experts as before, but training has raised the correction bias of one of "
        "them. What happens to this expert's weight?",
        options=(
            (
                "It rises, as its score has become larger",
                "The bias is added for choosing only. The weights are made from the scores without it: step 5 "
                "of section 5.",
            ),
            (
                "It falls, as the sum for dividing grows",
                "The sum is taken over scores without bias. It changes only if another expert gets into the choice.",
            ),
            (
                "It stays, as the bias only helps to choose",
                "With the same experts chosen, scores and sum are the same. Training uses the bias to balance "
                "the load.",
            ),
        ),
        right="c",
    ),
    Question(
        text="Expanded and absorbed MLA give the same result. When is the expanded form the cheaper one?",
        options=(
            (
                "In decoding, as the cache is then longer",
                "There it is dear: for each new token, keys and values of all old ones are rebuilt. Section 4 "
                "times it.",
            ),
            (
                "Never, as absorbed leaves out a step",
                "Absorbed works with the longer latents instead of short keys. With many queries that costs "
                "more than expanding once.",
            ),
            (
                "In training, as one expansion serves many",
                "All tokens are new: each latent is expanded once and used by many queries.",
            ),
        ),
        right="c",
    ),
    Question(
        text="An MTP module drafts the token after next, and its guess is wrong. What does the user get at this place?",
        options=(
            (
                "The main model's token, as without a draft",
                "The main model checks each guess. A wrong one is dropped: it costs time, never quality.",
            ),
            (
                "The wrong token, as the price of the speed",
                "No guess gets through unchecked. A low acceptance makes decoding slower, not worse.",
            ),
            (
                "The next likely guess, until one is accepted",
                "There is one guess a pass. If it fails, the main model's own token stands there already.",
            ),
        ),
        right="a",
    ),
)

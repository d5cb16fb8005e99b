"""Exercises of chapter 16: an index score, the choice, the hole beside a window, a sink, a CSA cache, the crossing."""

import math

from utils.exercises import Exercise, Mistake, Question


def _dots(queries: list, key: list) -> list:
    return [sum(a * b for a, b in zip(query, key, strict=True)) for query in queries]


def _best(scores: list, last: int, k: int) -> list:
    return sorted(range(last), key=lambda place: -scores[place])[:k]


EXERCISES = (
    Exercise(
        id="16.1",
        level=1,
        minutes=5,
        hints=(
            "One dot product for each head, cut off at 0 from below; then a weighted sum.",
            "sum(w * max(0, dot) ...) over pairs of weights and queries.",
        ),
        solution="def index_score(queries, key, weights):\n"
        "    dots = [sum(a * b for a, b in zip(query, key)) for query in queries]\n"
        "    return sum(w * max(0, dot) for w, dot in zip(weights, dots))\n\n\nanswer = index_score",
        after="One key for all heads, no softmax and no values: that is why it is cheap.",
        mistakes=(
            Mistake(
                lambda queries, key, weights: sum(w * d for w, d in zip(weights, _dots(queries, key), strict=True)),
                "The ReLU is missing: a head whose query and key disagree says 0, not a negative number.",
            ),
            Mistake(
                lambda queries, key, weights: max(
                    0, sum(w * d for w, d in zip(weights, _dots(queries, key), strict=True))
                ),
                "The ReLU cuts each head's product for itself, before the weights and the sum.",
            ),
            Mistake(
                lambda queries, key, weights: sum(
                    max(0, w * d) for w, d in zip(weights, _dots(queries, key), strict=True)
                ),
                "The ReLU comes before the weight: a head may count against a place, with a negative weight.",
            ),
            Mistake(
                lambda queries, key, weights: sum(
                    w * sum(max(0, a * b) for a, b in zip(q, key, strict=True))
                    for w, q in zip(weights, queries, strict=True)
                ),
                "The ReLU comes after the sum of a dot product: cut the product of a whole head, not each component.",
            ),
            Mistake(
                lambda queries, key, weights: sum(max(0, d) for d in _dots(queries, key)),
                "Each head's result still has to be multiplied by its weight.",
            ),
        ),
        probes=(
            ([[1.0, 2.0], [3.0, -1.0], [-2.0, 0.5]], [1.0, 1.5], [0.5, -1.0, 2.0]),
            ([[2.0, 1.0, 1.0], [-1.0, -1.0, 4.0]], [1.0, 2.0, -1.0], [-0.5, 3.0]),
        ),
    ),
    Exercise(
        id="16.2",
        level=2,
        minutes=8,
        hints=(
            "Only the places 0 to t take part. Take the k with the highest scores.",
            "sorted(range(t + 1), key=lambda place: -scores[place])[:k], and then sort the places.",
        ),
        solution="def chosen(scores, t, k):\n"
        "    best = sorted(range(t + 1), key=lambda place: -scores[place])\n"
        "    return sorted(best[:k])\n\n\nanswer = chosen",
        after="A query near the start has fewer than k places, and takes them all.",
        mistakes=(
            Mistake(
                lambda scores, t, k: sorted(_best(scores, len(scores), k)),
                "That looks into the future: only the places 0 to t may be chosen.",
            ),
            Mistake(
                lambda scores, t, k: sorted(_best(scores, t, k)),
                "A token may choose its own place, too: t takes part.",
            ),
            Mistake(
                lambda scores, t, k: _best(scores, t + 1, k),
                "The right places, in the order of their scores. Give them in the order of the text.",
            ),
            Mistake(
                lambda scores, t, k: [place for place in sorted(_best(scores, len(scores), k)) if place <= t],
                "Cut the future off before you take the k best, or it takes places away from the past.",
            ),
            Mistake(
                lambda scores, t, k: list(range(max(0, t + 1 - k), t + 1)),
                "Those are the newest places, a sliding window. The scores decide.",
            ),
        ),
        probes=(
            ([0.3, 2.0, -1.0, 1.5, 4.0, 0.9], 3, 2),
            ([5.0, 1.0, 3.0, 7.0, 2.0, 9.0], 4, 3),
            ([1.0, -2.0, 3.0, 5.0], 1, 4),
            ([0.5, 0.25, 2.0], 2, 1),
        ),
    ),
    Exercise(
        id="16.3",
        level=2,
        minutes=6,
        hints=(
            "After t + 1 tokens, how many stand in a block that is not yet closed?",
            "(t + 1) % m tokens are open. The window covers the newest w of them.",
        ),
        solution="def hole(t, m, w):\n    return max(0, (t + 1) % m - w)\n\n\nanswer = hole",
        after="The worst query is the last but one of a block: a window of m - 1 leaves no hole, and V4 has m.",
        mistakes=(
            Mistake(
                lambda t, m, w: max(0, t % m - w),
                "That leaves the query's own place out: after place t, t + 1 tokens are there.",
            ),
            Mistake(
                lambda t, m, w: (t + 1) % m,
                "Those are all open tokens. The window shows the newest w of them.",
            ),
            Mistake(
                lambda t, m, w: max(0, m - 1 - w),
                "That is the worst query of a block. Here it depends on t.",
            ),
            Mistake(
                lambda t, m, w: (t + 1) % m - w,
                "A hole cannot be negative: where the window covers all open tokens, it is 0.",
            ),
            Mistake(
                lambda t, m, w: max(0, t % m + 1 - w),
                "The token that completes a block already sees it as an entry: then nothing is open.",
            ),
            Mistake(
                lambda t, m, w: max(0, t + 1 - w),
                "That forgets the closed blocks: their places are seen, as entries.",
            ),
        ),
        probes=((20, 8, 3), (14, 8, 4), (7, 8, 3), (9, 16, 16), (23, 8, 2), (126, 128, 64)),
    ),
    Exercise(
        id="16.4",
        level=2,
        minutes=5,
        hints=(
            "The sink stands in the denominator of the softmax, and nowhere else.",
            "With e = sum of math.exp(score): e / (e + math.exp(sink)).",
        ),
        solution="import math\n\n\n"
        "def total_weight(scores, sink):\n"
        "    real = sum(math.exp(score) for score in scores)\n"
        "    return real / (real + math.exp(sink))\n\n\nanswer = total_weight",
        after="Without a sink it is always 1: a head would have to look somewhere, even where nothing fits.",
        mistakes=(
            Mistake(
                lambda scores, sink: 1.0,
                "That is a softmax without a sink. Here a part of the weight goes to the sink and is thrown away.",
            ),
            Mistake(
                lambda scores, sink: sum(scores) / (sum(scores) + sink),
                "Scores are logits: each enters as math.exp(score).",
            ),
            Mistake(
                lambda scores, sink: math.exp(sink) / (sum(map(math.exp, scores)) + math.exp(sink)),
                "That is the sink's own part. What is asked is the rest.",
            ),
            Mistake(
                lambda scores, sink: sum(map(math.exp, scores)) / (sum(map(math.exp, scores)) + sink),
                "The sink is a logit like the scores: it enters as math.exp(sink).",
            ),
        ),
        probes=(([1.0, 2.0, 0.5], 1.0), ([0.0, 0.0], 0.5), ([-3.0, -2.0], 2.0), ([4.0], -1.0)),
    ),
    Exercise(
        id="16.5",
        level=2,
        minutes=6,
        hints=(
            "How many numbers is that for one token, in each model?",
            "V3.2: 512 + 64 + 128. CSA: an entry and a key for every 4 tokens, (512 + 128) / 4.",
        ),
        solution="answer = (512 + 64 + 128) / ((512 + 128) / 4)",
        after="A CSA layer keeps 4.4 times less. The HCA layers, with one entry for 128 tokens, do the rest.",
        mistakes=(
            Mistake(
                (512 + 64 + 128) / (512 + 128),
                "That is one entry beside one token. An entry of CSA serves 4 tokens.",
            ),
            Mistake(
                (512 + 64) / ((512 + 128) / 4),
                "V3.2's indexer keeps a key, too: 128 numbers for every token.",
            ),
            Mistake((512 + 64 + 128) / (512 / 4), "CSA's indexer keeps keys, too: 128 numbers for every entry."),
            Mistake(
                ((512 + 128) / 4) / (512 + 64 + 128),
                "That is CSA's part of V3.2's. How many times fewer is the other way round.",
            ),
        ),
    ),
    Exercise(
        id="16.6",
        level=3,
        minutes=10,
        hints=(
            "The core costs k times its price a place. The indexer costs its own price for every place.",
            "k * heads * (2 * r + d_r) = places * index_heads * (index_dim + 1); solve for places.",
        ),
        solution="def crossing(k, heads, r, d_r, index_heads, index_dim):\n"
        "    core = k * heads * (2 * r + d_r)\n"
        "    return core / (index_heads * (index_dim + 1))\n\n\nanswer = crossing",
        after="For V3.2 that is about 34,500 places. It rises with k: who chooses more pays for the indexer later.",
        mistakes=(
            Mistake(
                lambda k, heads, r, d_r, index_heads, index_dim: (
                    heads * (2 * r + d_r) / (index_heads * (index_dim + 1))
                ),
                "That compares one place with one place. The core covers k of them.",
            ),
            Mistake(
                lambda k, heads, r, d_r, index_heads, index_dim: (
                    k * heads * (r + d_r) / (index_heads * (index_dim + 1))
                ),
                "The latent is used twice: once to compare, with r + d_r, and once to mix, with r.",
            ),
            Mistake(
                lambda k, heads, r, d_r, index_heads, index_dim: k * heads * (2 * r + d_r) / (index_heads * index_dim),
                "The sum over the indexer's heads costs one more multiply-add for each head.",
            ),
            Mistake(
                lambda k, heads, r, d_r, index_heads, index_dim: (
                    k * index_heads * (index_dim + 1) / (heads * (2 * r + d_r))
                ),
                "Upside down: the dearer the core, the later the indexer overtakes it.",
            ),
        ),
        probes=((2048, 128, 512, 64, 64, 128), (32, 4, 48, 16, 4, 32), (100, 16, 256, 32, 8, 64)),
    ),
)

QUIZ = (
    Question(
        text="V3.2 attends to 2,048 places at most. How does its cache compare with V3's after 100,000 tokens?",
        options=(
            (
                "It is smaller, as only 2,048 entries stay",
                "Any place may be chosen by a later query, so all of them must stay.",
            ),
            (
                "It is as large, as the same entries stay",
                "All entries stay, but the indexer has keys of its own, and they are cached, too.",
            ),
            (
                "It is larger, as the indexer keeps keys, too",
                "All entries stay, and 128 numbers for each token and layer come on top.",
            ),
        ),
        right="c",
    ),
    Question(
        text="Why can the usual loss of a language model not train the indexer?",
        options=(
            (
                "Taking the k best has no useful gradient",
                "A place that was left out says nothing about what it would have given. So the indexer learns "
                "from the attention instead.",
            ),
            (
                "The indexer's weights are kept in 8 bits",
                "It may run in 8 bits, but in training its weights are ordinary. The choice is the obstacle.",
            ),
            (
                "The loss does not depend on the choice",
                "It does: a bad choice raises it, as an untrained indexer shows. But it has no slope there.",
            ),
        ),
        right="a",
    ),
    Question(
        text="An entry of HCA stands for 128 tokens. What does a query lose that it would see with CSA?",
        options=(
            (
                "All tokens that are far away from it",
                "HCA's entries reach back to the start, and every query sees all closed ones.",
            ),
            (
                "Single tokens among many in one block",
                "One entry speaks for the whole block. What stands out survives, and four cards in one blur.",
            ),
            (
                "The newest tokens in its open block",
                "Those are in the window, which both kinds have beside their entries.",
            ),
        ),
        right="b",
    ),
    Question(
        text="V4 uses one vector as key and as value. Why is the mixed result turned back by the query's angle?",
        options=(
            (
                "So that its length stays what it was",
                "A rotation changes no length. The mix has the same length before and after.",
            ),
            (
                "So that later layers need no RoPE",
                "Every layer turns its own queries and keys. Nothing of it is left for the next layer.",
            ),
            (
                "So that only the distance is left in it",
                "The value carries its own place's angle. Turned back by the query's, the difference stays.",
            ),
        ),
        right="c",
    ),
)

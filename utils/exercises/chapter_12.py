"""Exercises of chapter 12: a row of a map, shared key heads, bytes of maps, the induction score, rollout."""

import math

from utils.exercises import Exercise, Mistake, Question


def _softmax(scores: list) -> list:
    parts = [math.exp(score - max(scores)) for score in scores]
    return [part / sum(parts) for part in parts]


def _score(weights: list, n: int, shift: int) -> float:
    return sum(weights[q][q - n + shift] for q in range(n + 1, 2 * n + 1)) / n


def _mixed(weights: list, share: float = 0.5) -> list:
    size = range(len(weights))
    return [[share * weights[i][j] + (1 - share) * (i == j) for j in size] for i in size]


def _product_row(left: list, right: list, q: int) -> list:
    size = range(len(left))
    return [sum(left[q][m] * right[m][k] for m in size) for k in size]


_FIRST = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]
_SECOND = [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.0, 1.0, 0.0]]
_FIVE = [
    [1.0, 0.0, 0.0, 0.0, 0.0],
    [0.5, 0.5, 0.0, 0.0, 0.0],
    [0.125, 0.25, 0.625, 0.0, 0.0],
    [0.0625, 0.125, 0.5625, 0.25, 0.0],
    [0.1875, 0.0625, 0.03125, 0.65625, 0.0625],
]

EXERCISES = (
    Exercise(
        id="12.1",
        level=1,
        minutes=6,
        hints=(
            "Cut the list after position q, take the softmax of that part, and fill up with zeros.",
            "past = scores[: q + 1]; then divide math.exp(s) by the sum of all math.exp(s) of past.",
        ),
        solution="import math\n\n\n"
        "def row(scores, q):\n"
        "    parts = [math.exp(score) for score in scores[: q + 1]]\n"
        "    return [part / sum(parts) for part in parts] + [0] * (len(scores) - q - 1)\n\n\nanswer = row",
        after="However large the scores, a row sums to 1: a head cannot look nowhere. Hence the sinks.",
        mistakes=(
            Mistake(
                lambda scores, q: _softmax(scores),
                "That looks into the future: only the positions 0 to q take part in the softmax.",
            ),
            Mistake(
                lambda scores, q: [*_softmax(scores)[: q + 1], *[0] * (len(scores) - q - 1)],
                "The row does not sum to 1: cut the future off before the softmax, not after it.",
            ),
            Mistake(
                lambda scores, q: [*(_softmax(scores[:q]) if q else []), *[0] * (len(scores) - q)],
                "A token sees itself, too: position q belongs to the row.",
            ),
            Mistake(
                lambda scores, q: _softmax(scores[: q + 1]),
                "The numbers are right. Keep the length of the list: later positions get 0.",
            ),
        ),
        probes=(([1.0, 2.0, 0.5], 1), ([0.0, 3.0, -1.0, 2.0], 1), ([2.0, 5.0], 0), ([1.0, 3.0], 1)),
    ),
    Exercise(
        id="12.2",
        level=1,
        minutes=4,
        hints=(
            "How many query heads share one key head?",
            "heads // key_heads of them share; the first that many use key head 0.",
        ),
        solution="def key_head(head, heads, key_heads):\n"
        "    return head // (heads // key_heads)\n\n\nanswer = key_head",
        after="repeat_interleave does the same for tensors; repeat would give the other order, a silent mistake.",
        mistakes=(
            Mistake(
                lambda head, heads, key_heads: head % key_heads,
                "That deals the key heads out in turn. Neighbours share: with 9 and 3, heads 0, 1 and 2 use the first.",
            ),
            Mistake(
                lambda head, heads, key_heads: head // key_heads,
                "Divide by the number of heads in a group, heads // key_heads, not by the number of groups.",
            ),
        ),
        probes=((1, 12, 3), (5, 12, 3), (11, 12, 3), (31, 32, 8), (6, 8, 8)),
    ),
    Exercise(
        id="12.3",
        level=2,
        minutes=5,
        hints=(
            "Each layer has one map for each head, and a map has T x T numbers.",
            "A number in BF16 takes 2 bytes.",
        ),
        solution="answer = 27 * 16 * 8192**2 * 2",
        after="58 GB, for a model whose weights take 31 GB: looking would cost more than thinking.",
        mistakes=(
            Mistake(27 * 16 * 8192**2, "That is how many numbers there are. A number in BF16 takes two bytes."),
            Mistake(27 * 16 * 8192 * 2, "That grows with T. A map has a row and a column for each token: T x T."),
            Mistake(16 * 8192**2 * 2, "That is one layer. There are 27."),
            Mistake(27 * 8192**2 * 2, "That is one head a layer. There are 16, and each has a map of its own."),
        ),
    ),
    Exercise(
        id="12.4",
        level=2,
        minutes=8,
        hints=(
            "The start token stands at 0, the first time at 1 to n, the second time at n + 1 to 2n.",
            "Row q repeats position q - n. The token that followed there stands at q - n + 1.",
        ),
        solution="def induction(weights, n):\n"
        "    return sum(weights[q][q - n + 1] for q in range(n + 1, 2 * n + 1)) / n\n\n\nanswer = induction",
        after="The last row looks at the first token of the second time: the only one whose successor is not needed.",
        mistakes=(
            Mistake(
                lambda weights, n: _score(weights, n, 0),
                "That is the earlier copy of the token itself. An induction head looks at what came after it.",
            ),
            Mistake(
                lambda weights, n: sum(weights[q][q - 1] for q in range(n + 1, 2 * n + 1)) / n,
                "That is the token before, the score of a previous-token head.",
            ),
            Mistake(
                lambda weights, n: sum(weights[q][q - n + 1] for q in range(n, 2 * n)) / n,
                "The start token takes position 0: the second time begins at row n + 1.",
            ),
            Mistake(
                lambda weights, n: _score(weights, n, 1) * n,
                "That is the sum. Divide by the number of rows.",
            ),
        ),
        probes=((_FIVE, 2), ([row[:3] for row in _FIVE[:3]], 1)),
    ),
    Exercise(
        id="12.5",
        level=3,
        minutes=10,
        hints=(
            "Mix each map with the identity: half the weight, plus one half on the diagonal.",
            "Row q of second times first: sum over m of second[q][m] * first[m][k].",
        ),
        solution="def rollout_row(first, second, q):\n"
        "    size = range(len(first))\n"
        "    a = [[(first[i][j] + (i == j)) / 2 for j in size] for i in size]\n"
        "    b = [[(second[i][j] + (i == j)) / 2 for j in size] for i in size]\n"
        "    return [sum(b[q][m] * a[m][k] for m in size) for k in size]\n\n\nanswer = rollout_row",
        after="A product of rows that sum to 1 sums to 1, too. In a decoder, most of it drifts to early tokens.",
        mistakes=(
            Mistake(
                lambda first, second, q: _product_row(second, first, q),
                "The residual stream is missing: mix each map half and half with the identity first.",
            ),
            Mistake(
                lambda first, second, q: _product_row(_mixed(first), _mixed(second), q),
                "The layers are in the wrong order: the last layer's row chooses from the rows of the layer before.",
            ),
            Mistake(
                lambda first, second, q: [
                    (a + b) / 2 for a, b in zip(_mixed(first)[q], _mixed(second)[q], strict=True)
                ],
                "That is a mean of two maps. Information passes through one layer and then the other: multiply.",
            ),
        ),
        probes=((_FIRST, _SECOND, 2), (_FIRST, _SECOND, 1)),
    ),
)

QUIZ = (
    Question(
        text="One head's map shows a clear bright line. What would show that the model needs this head?",
        options=(
            (
                "Remove the head, and random heads as a control",
                "Only a removal shows what depends on it. The first-token heads have the clearest line of all, "
                "and nothing misses them.",
            ),
            (
                "Find the same line on many other texts as well",
                "That shows that the head's habit is steady, which section 5 tests. A steady habit may still be"
                " of no use.",
            ),
            (
                "Find the same line in a larger model as well",
                "Then two models have such a head. Whether an output depends on it is still open.",
            ),
        ),
        right="a",
    ),
    Question(
        text='weights has the shape (batch, heads, T, T). What does torch.einsum("bhqk->bqk", weights) give?',
        options=(
            (
                "The map of the first head",
                "Nothing in the equation names a head. One head is an index: weights[:, 0].",
            ),
            (
                "The sum of all heads' maps",
                "The letter h is missing on the right, so einsum sums over it. Rows and columns stay.",
            ),
            (
                "The mean of all heads' maps",
                "einsum only multiplies and adds. A mean would have to be divided by the number of heads.",
            ),
        ),
        right="b",
    ),
    Question(
        text="Two sentences differ in one word, and a head's map is nearly the same for both. Can this head "
        "carry the difference to the output?",
        options=(
            (
                "No: an equal map gives an equal output",
                "The output is a mix of values, and these differ with the words. The map holds the weights of "
                "the mix only.",
            ),
            (
                "No: it would have to look at the word",
                "Earlier heads may have moved the word's information to other places. Section 8's strongest "
                "carrier hardly looks at it.",
            ),
            (
                "Yes: a map does not say what is read",
                "It says where and how much. Patching shows what passes through a head.",
            ),
        ),
        right="c",
    ),
    Question(
        text="Set to zero, a head does great damage. Set to its mean over the text, it does none. What follows?",
        options=(
            (
                "Later layers rely on what it always adds",
                "The mean keeps the constant part and removes what the head says about single tokens. Zero "
                "removes both.",
            ),
            (
                "The head says something vital about each token",
                "The mean removes just that, and nothing is lost. Section 6 warns of this conclusion.",
            ),
            (
                "One of the two measurements must be wrong",
                "Both are right: they remove different things. The kind of removal is part of the result.",
            ),
        ),
        right="a",
    ),
)

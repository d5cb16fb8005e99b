"""Exercises of chapter 17: connections and their parameters, Sinkhorn's round, gains, FP4, and experts' bytes."""

from utils.exercises import Exercise, Mistake, Question

_LEVELS = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


def _rows(matrix: list) -> list:
    return [[entry / sum(row) for entry in row] for row in matrix]


def _columns(matrix: list) -> list:
    sums = [sum(column) for column in zip(*matrix, strict=True)]
    return [[entry / total for entry, total in zip(row, sums, strict=True)] for row in matrix]


def _product(left: list, right: list) -> list:
    return [
        [sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*right, strict=True)] for row in left
    ]


def _gain(matrix: list) -> float:
    return max(abs(sum(row)) for row in matrix)


def _nearest(magnitude: float) -> float:
    return min(_LEVELS, key=lambda level: abs(level - magnitude))


def _sign(x: float) -> int:
    return -1 if x < 0 else 1


EXERCISES = (
    Exercise(
        id="17.1",
        level=1,
        minutes=4,
        hints=(
            "A has a number for each stream, and so has C. B is a square.",
            "n + n + n * n, with n = 4.",
        ),
        solution="answer = 4 + 4 + 4 * 4",
        after="V4's report mentions this very number: a matrix product in mHC has only 24 outputs (section 3.3).",
        mistakes=(
            Mistake(16, "That is B alone. The layer also has to know how to read and how to write."),
            Mistake(20, "One of reading and writing is missing: A and C have a number for each stream each."),
            Mistake(12, "B mixes each stream into each: it is a square of 4 × 4."),
            Mistake(8, "Those are A and C. B is missing."),
            Mistake(3, "Those are three matrices. How many numbers has each?"),
        ),
    ),
    Exercise(
        id="17.2",
        level=2,
        minutes=8,
        hints=(
            "First: [[entry / sum(row) for entry in row] for row in matrix].",
            "zip(*rows) gives the columns of the result; divide each entry by the sum of its column.",
        ),
        solution="def one_round(matrix):\n"
        "    rows = [[entry / sum(row) for entry in row] for row in matrix]\n"
        "    sums = [sum(column) for column in zip(*rows)]\n"
        "    return [[entry / total for entry, total in zip(row, sums)] for row in rows]\n\n\nanswer = one_round",
        after="After it the columns sum to 1 exactly, and the rows nearly. V4 does 20 such rounds.",
        mistakes=(
            Mistake(_rows, "Those are the rows. Their columns have to be divided as well."),
            Mistake(lambda matrix: _rows(_columns(matrix)), "The rows come first, then the columns."),
            Mistake(
                lambda matrix: [
                    [entry / total for entry, total in zip(row, map(sum, zip(*matrix, strict=True)), strict=True)]
                    for row in _rows(matrix)
                ],
                "The columns' sums have to be taken after the rows were divided.",
            ),
            Mistake(_columns, "The columns come last. Before that, divide each row by its sum."),
            Mistake(
                lambda matrix: [
                    [a * b for a, b in zip(*pair, strict=True)]
                    for pair in zip(_rows(matrix), _columns([[1.0] * len(matrix)] * len(matrix)), strict=True)
                ],
                "The columns are divided by their own sums, not by the number of rows.",
            ),
        ),
        probes=(([[1, 3], [1, 1]],), ([[8, 1, 1], [2, 2, 2], [1, 3, 9]],), ([[0.5, 4.0], [2.0, 7.0]],)),
    ),
    Exercise(
        id="17.3",
        level=2,
        minutes=8,
        hints=(
            "The signal becomes first @ x, then second @ (first @ x): the product is second @ first.",
            "An entry of the product: a row of `second` times a column of `first`. Then max(abs(sum(row)) ...).",
        ),
        solution="def gain_of_two(first, second):\n"
        "    product = [[sum(a * b for a, b in zip(row, column)) for column in zip(*first)] for row in second]\n"
        "    return max(abs(sum(row)) for row in product)\n\n\nanswer = gain_of_two",
        after="Gains do not simply multiply: what the first map makes of a signal may suit the second or not.",
        mistakes=(
            Mistake(
                lambda first, second: _gain(first) * _gain(second),
                "That multiplies two worst cases, which need not meet. Multiply the maps first.",
            ),
            Mistake(
                lambda first, second: _gain(_product(first, second)),
                "The order: what comes first stands on the right, second @ first.",
            ),
            Mistake(
                lambda first, second: _gain([*zip(*_product(second, first), strict=True)]),
                "Those are column sums, the gain of the way back.",
            ),
            Mistake(
                lambda first, second: max(sum(map(abs, row)) for row in _product(second, first)),
                "Add up the row first, and take the absolute value of the sum.",
            ),
            Mistake(
                lambda first, second: max(sum(row) for row in _product(second, first)),
                "A row sum may be large and negative. Take its absolute value.",
            ),
        ),
        probes=(
            ([[1, 2], [0, 1]], [[1, 0], [-3, -1]]),
            ([[1, 1], [0, 1]], [[1, 0], [2, 1]]),
            ([[0.5, 0.5], [0.25, 0.75]], [[0.9, 0.1], [0.2, 0.8]]),
            ([[2, -1, 0], [0, 1, 1], [1, 0, -2]], [[1, 0, 1], [-2, -1, 0], [0, 3, 1]]),
        ),
    ),
    Exercise(
        id="17.4",
        level=3,
        minutes=8,
        hints=(
            "All streams together have 4 * 7168 numbers. The matrix of a connection has 24 rows of that length.",
            "122 * (24 * 4 * 7168 + 24 + 3) and the head, 4 * 4 * 7168 + 4 + 1.",
        ),
        solution="answer = 122 * (24 * 4 * 7168 + 24 + 3) + (4 * 4 * 7168 + 4 + 1)",
        after="84 million: 0.005 % of V4-Pro. It is the count of chapter 01's formula, to the last parameter.",
        mistakes=(
            Mistake(122 * (24 * 4 * 7168 + 24 + 3), "Those are the connections. The head at the end is missing."),
            Mistake(
                61 * (24 * 4 * 7168 + 24 + 3) + (4 * 4 * 7168 + 4 + 1),
                "Each layer has two connections: one around attention and one around its experts.",
            ),
            Mistake(
                122 * (24 * 7168 + 24 + 3) + (4 * 7168 + 4 + 1),
                "The matrices read all four streams, so their rows have 4 * 7168 numbers.",
            ),
            Mistake(122 * 24 * 4 * 7168 + 4 * 4 * 7168, "Those are the matrices. Biases and scales are missing."),
        ),
    ),
    Exercise(
        id="17.5",
        level=2,
        minutes=6,
        hints=(
            "Work with abs(x) / scale, and give the sign back at the end.",
            "min(levels, key=lambda level: abs(level - magnitude)) takes the first of two that are as near.",
        ),
        solution="def to_fp4(x, scale):\n"
        "    levels = (0, 0.5, 1, 1.5, 2, 3, 4, 6)\n"
        "    level = min(levels, key=lambda level: abs(level - abs(x) / scale))\n"
        "    return (-level if x < 0 else level) * scale\n\n\nanswer = to_fp4",
        after="Between 4 and 6 there is nothing: near the top, MXFP4's steps are a third of the number.",
        mistakes=(
            Mistake(
                lambda x, scale: _sign(x) * min(6, round(2 * abs(x) / scale) / 2) * scale,
                "The levels are not evenly spaced: above 2 there are only 3, 4 and 6.",
            ),
            Mistake(
                lambda x, scale: _sign(x) * min(_LEVELS[::-1], key=lambda level: abs(level - abs(x) / scale)) * scale,
                "A tie goes to the smaller magnitude: 5 lies between 4 and 6, and becomes 4.",
            ),
            Mistake(
                lambda x, scale: x if abs(x) / scale > 6 else _sign(x) * _nearest(abs(x) / scale) * scale,
                "What is too large becomes 6 times the scale.",
            ),
            Mistake(
                lambda x, scale: _sign(x) * max(level for level in _LEVELS if level <= abs(x) / scale) * scale,
                "That always rounds down. Take the nearest.",
            ),
            Mistake(lambda x, scale: _nearest(abs(x) / scale) * scale, "The sign got lost."),
            Mistake(
                lambda x, scale: _sign(x) * _nearest(abs(x) / scale),
                "That is the level. What is stored stands for the level times the scale.",
            ),
            Mistake(
                lambda x, scale: _sign(x) * _nearest(abs(x)),
                "Divide by the scale first, and multiply with it afterwards.",
            ),
        ),
        probes=(
            (0.3, 1),
            (-2.6, 1),
            (9.0, 1),
            (5.0, 1),
            (0.07, 0.0625),
            (-0.2, 0.0625),
            (-40.0, 16),
            (0.25, 1),
            (1.4, 1),
        ),
    ),
    Exercise(
        id="17.6",
        level=2,
        minutes=5,
        hints=(
            "32 weights take 32 * 4 bits, and 8 bits for their scale.",
            "That is 17 bytes for 32 weights.",
        ),
        solution="answer = 277_025_390_592 * 17 // 32",
        after="147 GB in place of 554 GB in BF16: two cards of 80 GB hold the experts, in place of seven.",
        mistakes=(
            Mistake(277_025_390_592 // 2, "Four bits are half a byte, but each block of 32 has a scale of 8 bits."),
            Mistake(277_025_390_592 * 18 // 32, "The scale of MXFP4 is a power of two in 8 bits, not in 16."),
            Mistake(277_025_390_592 * 17 // 4, "Those are bits. A byte has 8."),
        ),
    ),
)

QUIZ = (
    Question(
        text="Each of 100 maps has row sums of at most 1.05. What is certain about the row sums of their product?",
        options=(
            ("Nothing at all about them", "If no entry is negative, each map multiplies the bound by 1.05."),
            ("They are at most 1.05 too", "Growth multiplies. Only with row sums of exactly 1 the bound stays."),
            (
                "At most 132, if no entry is negative",
                "Growth multiplies: 1.05 a hundred times is nearly 132. A harmless map, repeated, is not harmless.",
            ),
        ),
        right="c",
    ),
    Question(
        text="Why does DeepSeek demand that rows and columns of B both sum to 1, and not only rows?",
        options=(
            (
                "Rows bound the signal, columns the gradient",
                "The way back multiplies with the transposed maps, whose row sums are the column sums.",
            ),
            (
                "Otherwise the matrix could not be inverted",
                "The matrix that averages all streams has both sums 1 and no inverse. Nobody inverts it.",
            ),
            ("It halves the number of parameters", "The numbers are computed all the same, and then scaled."),
        ),
        right="a",
    ),
    Question(
        text="A hash chooses the experts in the first layers. What does the model lose against a learned router?",
        options=(
            (
                "Its experts are not weighted any more",
                "The scores still set the weights. Only the choice is fixed.",
            ),
            (
                "A word gets the same experts in any context",
                "The table knows the token alone. That is why it stands only in the first layers.",
            ),
            ("Its experts cannot be trained any more", "They are trained like any other, on the tokens that they get."),
        ),
        right="b",
    ),
    Question(
        text="You store tame, bell-shaped weights, and the card multiplies both formats equally fast. Which is nearer "
        "to the weights?",
        options=(
            (
                "INT4 in groups of 32, at 4.5 bits",
                "Its steps are even and its scale is no power of two. MXFP4 wins where blocks have outliers.",
            ),
            ("MXFP4, as floats are more exact", "Near the top of a block its steps are coarse: from 4 to 6."),
            ("They are the same, as both have four bits", "Their codes lie at other places, and their scales differ."),
        ),
        right="a",
    ),
)

"""Exercises of chapter 09: what LoRA costs, its scale, merging, the right layers, and leaks."""

from utils.exercises import Exercise, Mistake, Question


def _merged(W: list, A: list, B: list, scale: float) -> list:
    r = len(A)
    return [
        [w + scale * sum(B[i][k] * A[k][j] for k in range(r)) for j, w in enumerate(row)] for i, row in enumerate(W)
    ]


EXERCISES = (
    Exercise(
        id="09.1",
        level=1,
        minutes=4,
        hints=("A is r × in, B is out × r. Add their sizes.", "r * d_in + d_out * r"),
        solution="def pair(r, d_in, d_out):\n    return r * (d_in + d_out)\n\n\nanswer = pair",
        after="It grows with the sum of the sides, while the matrix grows with their product.",
        mistakes=(
            Mistake(lambda r, d_in, d_out: d_in * d_out, "That is the frozen matrix. A and B are trained."),
            Mistake(lambda r, d_in, d_out: r * d_in * d_out, "A and B are two thin matrices: add, do not multiply."),
            Mistake(lambda r, d_in, d_out: 2 * r * d_in, "Only a square matrix has out = in. Use both sides."),
        ),
        probes=((16, 576, 192), (1, 10, 20), (8, 64, 64)),
    ),
    Exercise(
        id="09.2",
        level=1,
        minutes=4,
        hints=(
            "Set the old scale equal to the new one and solve for the new alpha.",
            "Plain: alpha / r = new / new_r. rsLoRA: alpha / sqrt(r) = new / sqrt(new_r).",
        ),
        solution="def new_alpha(alpha, r, new_r, rslora):\n"
        "    ratio = new_r / r\n"
        "    return alpha * (ratio**0.5 if rslora else ratio)\n\n\n"
        "answer = new_alpha",
        after="Whoever writes a rank into a recipe without its alpha has written half of it.",
        mistakes=(
            Mistake(
                lambda alpha, r, new_r, rslora: alpha,
                "With the same alpha, the scale falls as the rank rises.",
            ),
            Mistake(
                lambda alpha, r, new_r, rslora: alpha * new_r / r,
                "Right for plain LoRA. rsLoRA divides by the root of the rank.",
            ),
            Mistake(
                lambda alpha, r, new_r, rslora: alpha * (r / new_r) ** (0.5 if rslora else 1),
                "The wrong way round: the scale divides by the rank, so alpha must grow with it.",
            ),
        ),
        probes=((16, 8, 64, False), (16, 6, 8, False), (32, 16, 4, False), (16, 8, 72, True), (16, 8, 24, True)),
    ),
    Exercise(
        id="09.3",
        level=2,
        minutes=6,
        hints=(
            "One rank costs 2 layers × (4,096 + 4,096) in each of 30 blocks.",
            "Divide 1 % of the parameters by that, and round up.",
        ),
        solution="import math\n\n"
        "per_rank = 30 * 2 * (4096 + 4096)\n"
        "answer = math.ceil(0.01 * 6_910_365_696 / per_rank)",
        after="Nine times the article's rank, for the low end of its own claim.",
        mistakes=(
            Mistake(140, "At rank 140 the share is still just below 1 %: round up."),
            Mistake(282, "Two layers are adapted in each block, q_proj and v_proj."),
            Mistake(4218, "There are 30 blocks, each with its own pair of adapters."),
        ),
    ),
    Exercise(
        id="09.4",
        level=2,
        minutes=8,
        hints=(
            "Entry (i, j) of B A is the sum over k of B[i][k] * A[k][j].",
            "The scale is alpha / len(A).",
        ),
        solution="def merged_weight(W, A, B, alpha):\n"
        "    r = len(A)\n"
        "    return [\n"
        "        [w + alpha / r * sum(B[i][k] * A[k][j] for k in range(r)) for j, w in enumerate(row)]\n"
        "        for i, row in enumerate(W)\n"
        "    ]\n\n\n"
        "answer = merged_weight",
        after="After this the detour is gone, and with it the switch that turns it off.",
        mistakes=(
            Mistake(
                lambda W, A, B, alpha: _merged(W, A, B, alpha),
                "alpha alone is not the scale: divide it by the rank, the number of rows of A.",
            ),
            Mistake(lambda W, A, B, alpha: _merged(W, A, B, 1), "The scale alpha / r is missing."),
            Mistake(
                lambda W, A, B, alpha: _merged([[0] * len(row) for row in W], A, B, alpha / len(A)),
                "That is the change alone. Add it to W.",
            ),
        ),
        probes=(
            ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [0.0, 1.0]], 8),
            ([[0.0, 0.0, 1.0]], [[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]], [[1.0, -1.0]], 3),
        ),
    ),
    Exercise(
        id="09.5",
        level=3,
        minutes=8,
        hints=(
            "For each layer add in + out; then times the rank, times the number of layers.",
            "The four sums are 5,120, 2,624, 4,608 and 4,096.",
        ),
        solution="sums = (2048 + 3072) + (2048 + 576) + (512 + 4096) + (2048 + 2048)\nanswer = 27 * 16 * sums",
        after="More than three times what the article's two names adapt in it, and all of attention this time.",
        mistakes=(
            Mistake(27 * 16 * (2048 + 3072), "That is q_proj alone, which is what the article's two names would give."),
            Mistake(16 * 16_448, "That is one layer of 27."),
            Mistake(
                27 * 16 * (16_448 - 512 + 2048), "kv_b_proj starts from the latent of 512, not from the hidden size."
            ),
        ),
    ),
    Exercise(
        id="09.6",
        level=2,
        minutes=6,
        hints=(
            "Collect the families of the training codes in a set: code[:3].",
            "Keep the test codes whose first three characters are in that set.",
        ),
        solution="def leaks(train_codes, test_codes):\n"
        "    families = {code[:3] for code in train_codes}\n"
        "    return [code for code in test_codes if code[:3] in families]\n\n\n"
        "answer = leaks",
        after="A test set is only as good as the care with which it was separated.",
        mistakes=(
            Mistake(
                lambda train_codes, test_codes: [code for code in test_codes if code in train_codes],
                "That finds the same code only. Relatives share the first three characters.",
            ),
            Mistake(
                lambda train_codes, test_codes: [
                    code for code in test_codes if code[:3] not in {known[:3] for known in train_codes}
                ],
                "That returns the clean ones.",
            ),
            Mistake(
                lambda train_codes, test_codes: [
                    code for code in test_codes if code[0] in {known[0] for known in train_codes}
                ],
                "One letter is a whole chapter or more. A family is three characters.",
            ),
        ),
        probes=(
            (["E11.9", "J45.20"], ["E11.65", "E10.9", "J45.20", "I10"]),
            (["A00.0", "A00.1"], ["B20", "A00.9", "A01.0"]),
            (["E11.9", "J45.20"], ["J45.9", "I10", "E11.65"]),
        ),
    ),
)

QUIZ = (
    Question(
        text="Somebody lets B start with random numbers, as A does, and not at zero. What is different?",
        options=(
            (
                "The model is changed before its first step",
                "s·BA is then random noise on every adapted weight. With B at zero, training begins from the "
                "model as it was.",
            ),
            (
                "Nothing, as the training corrects it anyway",
                "Training begins with a damaged model and first has to repair it. A start at zero costs nothing.",
            ),
            (
                "No gradient reaches A, so it never moves",
                "The other way round: A's gradient goes through B, so it is zero while B is zero. Random "
                "numbers let it through.",
            ),
        ),
        right="a",
    ),
    Question(
        text="A medical adapter has made the model worse on Python. How do you get the old model back, digit "
        "for digit?",
        options=(
            (
                "Train it on Python pages for some steps",
                "That makes a third model, near the old one at best. The base was never damaged.",
            ),
            (
                "Merge the adapter, and then delete its file",
                "Merging writes the change into the weights. After that, nothing can be switched off.",
            ),
            (
                "Switch the adapter off, and run the base",
                "The base is frozen and has forgotten nothing. Section 7 finds its perplexity again, to the digit.",
            ),
        ),
        right="c",
    ),
    Question(
        text="You split the diagnoses one by one at random, not by family. The test score is ten points higher."
        " What is the likely reason?",
        options=(
            (
                "A random split trains on more diagnoses",
                "The sizes can be the same. What changes is how near the test rows are to the training rows.",
            ),
            (
                "Near copies of test rows are in training",
                "Codes of one family differ by a word or two. The model recalls them, and the score no longer "
                "measures understanding.",
            ),
            (
                "A random split balances the chapters better",
                "The score is the mean over the chapters, so their sizes hardly matter. Balance would not give "
                "ten points.",
            ),
        ),
        right="b",
    ),
    Question(
        text="LoRA trains about 0.01 % of DeepSeek-V3. Why does its training in BF16 need more than a terabyte?",
        options=(
            (
                "The adapter grows with each training step",
                "Its shape is fixed by the rank. A and B change their numbers, not their size.",
            ),
            (
                "AdamW keeps two means for every weight",
                "Only for weights that are trained. Frozen ones have neither a gradient nor optimizer state.",
            ),
            (
                "The frozen base must be in memory as well",
                "Every token goes through all of the base's layers: 671 billion parameters of 2 bytes in BF16, "
                "trained or not.",
            ),
        ),
        right="c",
    ),
)

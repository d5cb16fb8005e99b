"""Exercises of chapter 11: the ledger of training, ALiBi, number formats, scales and recomputation."""

from utils.exercises import Exercise, Mistake, Question


def _scale_step(scale: float, clean: int, overflow: bool, patience: int, restart: bool = True, forget: bool = True):
    if overflow:
        return scale / 2, 0 if forget else clean
    if clean + 1 == patience:
        return scale * 2, 0 if restart else clean + 1
    return scale, clean + 1


EXERCISES = (
    Exercise(
        id="11.1",
        level=1,
        minutes=5,
        hints=(
            "How many bytes does one parameter cost in the recipe 'mixed 16-bit'?",
            "2 for the weight, 4 for the master copy, 2 for the gradient, 8 for the two means.",
        ),
        solution="answer = 7e9 * (2 + 4 + 2 + 8) / 1e9",
        after="A 7-billion model needs more than one 80 GB card to be trained, and 14 GB to be used.",
        mistakes=(
            Mistake(14, "Those are the weights alone."),
            Mistake(84, "AdamW keeps two means for each parameter, not one."),
            Mistake(84 + 0.5 * 7, "AdamW's means are FP32 in this recipe: 4 bytes each."),
            Mistake(28, "Those are weights and gradients. AdamW's means and the master copy are still missing."),
            Mistake(112e9, "Those are bytes. The question asks for gigabytes."),
        ),
        tolerance=0.005,
    ),
    Exercise(
        id="11.2",
        level=1,
        minutes=6,
        hints=(
            "The first slope is 2 ** (-8 / heads), the last one is always 2 ** -8.",
            "Head i, counted from 1, has the slope 2 ** (-8 * i / heads).",
        ),
        solution="def slopes(heads):\n"
        "    return [2 ** (-8 * i / heads) for i in range(1, heads + 1)]\n\n\nanswer = slopes",
        after="Steep heads look at the nearest words, flat ones far back. Nobody trains these numbers.",
        mistakes=(
            Mistake(
                lambda heads: [2 ** (-8 * i / heads) for i in range(heads)],
                "The first slope is not 1: heads are counted from 1 here.",
            ),
            Mistake(
                lambda heads: [2.0**-i for i in range(1, heads + 1)],
                "That is right for 8 heads only: the exponents are spread so that the last one is 8.",
            ),
            Mistake(
                lambda heads: [2 ** (8 * i / heads) for i in range(1, heads + 1)],
                "These slopes grow above 1. The exponent is negative.",
            ),
            Mistake(
                lambda heads: [-(2 ** (-8 * i / heads)) for i in range(1, heads + 1)],
                "The slopes are positive; the minus stands before the slope, in the formula of the score.",
            ),
        ),
        probes=((8,), (4,), (16,), (1,)),
    ),
    Exercise(
        id="11.3",
        level=2,
        minutes=6,
        hints=(
            "The largest exponent field, 15, is in use: its power is 2 ** (15 - 7).",
            "With that exponent, the mantissa 7 is NaN. The largest one left is 6: (1 + 6 / 8) * 2 ** 8.",
        ),
        solution="answer = (1 + 6 / 8) * 2 ** (15 - 7)",
        after="Without this trick, the format would end at 240. With eight bits, one exponent is a treasure.",
        mistakes=(
            Mistake(480, "That is the pattern of all ones, which is NaN. Take the one below."),
            Mistake(240, "That would be so if the largest exponent were reserved, as in FP16. E4M3 uses it."),
            Mistake(256, "That is the largest exponent with an empty mantissa."),
            Mistake(896, "The bias is 7, so the largest exponent is 15 - 7."),
        ),
    ),
    Exercise(
        id="11.4",
        level=2,
        minutes=6,
        hints=(
            "One byte a weight, and 4 bytes a scale.",
            "There are (2048 / 128) * (7168 / 128) blocks.",
        ),
        solution="answer = 2048 * 7168 + 4 * (2048 // 128) * (7168 // 128)",
        after="The scales add 0.02 %. For activations, with a scale for 128 numbers, it is 3 %.",
        mistakes=(
            Mistake(2048 * 7168, "Those are the weights. The scales are missing."),
            Mistake(2048 * 7168 + 16 * 56, "An FP32 scale takes 4 bytes."),
            Mistake(2048 * 7168 + 4 * 2048 * 56, "That has a scale for each 1 x 128: the tiles of activations."),
            Mistake(2 * 2048 * 7168 + 4 * 16 * 56, "FP8 takes one byte a weight."),
        ),
    ),
    Exercise(
        id="11.5",
        level=2,
        minutes=8,
        hints=(
            "Three cases: an overflow, the last clean step that was needed, and any other clean step.",
            "An overflow gives (scale / 2, 0); clean + 1 == patience gives (scale * 2, 0).",
        ),
        solution="def step_scale(scale, clean, overflow, patience):\n"
        "    if overflow:\n"
        "        return scale / 2, 0\n"
        "    if clean + 1 == patience:\n"
        "        return scale * 2, 0\n"
        "    return scale, clean + 1\n\n\nanswer = step_scale",
        after="The scale keeps knocking at the ceiling: now and then a step is lost, and that is the price of knowing.",
        mistakes=(
            Mistake(
                lambda scale, clean, overflow, patience: _scale_step(scale, clean, overflow, patience, restart=False),
                "After the doubling the count starts again, or the scale would never wait a second time.",
            ),
            Mistake(
                lambda scale, clean, overflow, patience: _scale_step(scale, clean, overflow, patience, forget=False),
                "Clean steps must come in a row: an overflow sets their count to 0.",
            ),
            Mistake(
                lambda scale, clean, overflow, patience: _scale_step(scale, clean, overflow, patience + 1),
                "This step counts as well: double when clean + 1 reaches patience.",
            ),
            Mistake(
                lambda scale, clean, overflow, patience: _scale_step(scale, clean, not overflow, patience),
                "Overflow means that the scale is too large: halve it then.",
            ),
        ),
        probes=(
            (8.0, 1, False, 3),
            (8.0, 2, False, 3),
            (8.0, 2, True, 3),
            (4.0, 3, False, 5),
            (1.0, 0, False, 1),
            (1.0, 1, True, 3),
        ),
    ),
    Exercise(
        id="11.6",
        level=3,
        minutes=10,
        hints=(
            "There are 64 / k inputs, and one run of k layers holds 16 k.",
            "Compute 64 / k + 16 * k for k = 1, 2, 4, 8.",
        ),
        solution="answer = min((1, 2, 4, 8, 16, 32, 64), key=lambda k: 64 / k + 16 * k)",
        after="The best k is near the square root of layers / inside. Layers that save little inside call for longer "
        "runs, and 'the square root of the layers' is only right when inside counts as 1.",
        mistakes=(
            Mistake(8, "The square root of 64 would be right if the inside of a layer counted as 1. It counts as 16."),
            Mistake(1, "That needs 64 + 16 = 80. There is a better one."),
            Mistake(4, "That needs 16 + 64 = 80. There is a better one."),
            Mistake(64, "That is one run of all layers: while it is recomputed, everything is kept."),
        ),
    ),
)

QUIZ = (
    Question(
        text="You change a training with AdamW from FP32 to mixed 16-bit. The batch is tiny, so activations "
        "hardly count. What happens to the memory?",
        options=(
            (
                "It is halved, as a number takes half the bytes",
                "Weights and gradients are halved. But a master copy in FP32 comes on top, and the means stay in FP32.",
            ),
            (
                "It stays, at about 16 bytes for a parameter",
                "2 + 4 + 2 + 8 is 16, and so is 4 + 4 + 8. Mixed precision shrinks activations, and is faster.",
            ),
            (
                "It falls to 12, as only the means stay in FP32",
                "That leaves out the master copy of the weights, 4 bytes. Without it, small steps would be "
                "rounded away.",
            ),
        ),
        right="b",
    ),
    Question(
        text="A training on one card fits with a batch of 4 and runs out of memory with 32. Which remedy aims "
        "at what has grown?",
        options=(
            (
                "Tied embeddings, as in SmolLM2",
                "They save parameters. The batch does not change the number of parameters.",
            ),
            (
                "AdamW's means in BF16, as in V3",
                "They belong to the parameters, and so does their memory. The batch has not made them larger.",
            ),
            (
                "Recomputing the layers' activations",
                "Only activations grow with the tokens of a batch. Section 4 keeps a layer's input and computes"
                " the rest again.",
            ),
        ),
        right="c",
    ),
    Question(
        text="Why does FP16 training need a scaled loss, while BF16 does without?",
        options=(
            (
                "BF16 has finer steps than FP16 has",
                "It has coarser ones: 128 numbers from 1 to 2 against 1,024. Its strength is range.",
            ),
            (
                "BF16 is stored in 32 bits in truth",
                "Both take 16 bits. They divide them in another way between exponent and mantissa.",
            ),
            (
                "BF16 has a range as wide as FP32's",
                "Small gradients vanish below FP16's range. BF16 spends its bits on exponents and still holds them.",
            ),
        ),
        right="c",
    ),
    Question(
        text="A model uses one layer 24 times, as ALBERT does, in place of 24 layers of its own. What stays as "
        "large as before?",
        options=(
            (
                "Activations, and the work for a token",
                "Each of the 24 passes is computed, and keeps its activations. Section 5 counts them.",
            ),
            (
                "Gradients, and AdamW's two means",
                "They go with the parameters, and there is only one layer's worth of them.",
            ),
            (
                "Weights, and the file that holds them",
                "The weights are stored once. Sharing the layers alone makes BERT-large 7 times smaller.",
            ),
        ),
        right="a",
    ),
)

"""Exercises of chapter 14: sizes of adapters, break-even, and averaging updates."""

import math

from utils.exercises import Exercise, Mistake, Question

EXERCISES = (
    Exercise(
        id="14.1",
        level=1,
        minutes=5,
        hints=(
            "A has rank rows and one column for each input. B has one row for each output and rank columns.",
            "rank * inputs numbers in A, outputs * rank in B.",
        ),
        solution="def lora_size(inputs, outputs, rank):\n    return rank * (inputs + outputs)\n\n\nanswer = lora_size",
        after="The sum of the sides instead of their product: that is the whole saving of LoRA.",
        mistakes=(
            Mistake(
                lambda inputs, outputs, rank: rank * inputs * outputs,
                "That multiplies the sides, as for a full matrix. A and B are thin: add their sizes.",
            ),
            Mistake(
                lambda inputs, outputs, rank: inputs * outputs,
                "That is the size of W, which stays frozen.",
            ),
            Mistake(lambda inputs, outputs, rank: rank * inputs, "That is A alone. B is stored, too."),
            Mistake(
                lambda inputs, outputs, rank: rank * (inputs + outputs) + rank * rank,
                "There is no matrix between A and B: they meet directly.",
            ),
        ),
        probes=((4, 6, 2), (192, 64, 4), (10, 3, 1)),
    ),
    Exercise(
        id="14.2",
        level=1,
        minutes=5,
        hints=(
            "The layer has 50,000 outputs. How many numbers does each output cost, its bias included?",
            "129 * 50,000 numbers are as many as 129 adapters. And smaller means smaller.",
        ),
        solution="answer = 128 + 1 + 1",
        after="The size of the adapter does not matter: only the inputs of the last layer do.",
        mistakes=(
            Mistake(129, "With 129 tasks both are equally large. Smaller begins one later."),
            Mistake(128, "Each output has a bias, too, and equal is not yet smaller."),
            Mistake(128 * 50_000, "That is a number of weights. Divide by the numbers of one adapter."),
        ),
    ),
    Exercise(
        id="14.3",
        level=2,
        minutes=8,
        hints=(
            "Multiply first, each a with its own b. Average afterwards.",
            "sum(x * y for x, y in zip(a, b)) / len(a)",
        ),
        solution="def mean_update(a, b):\n"
        "    return sum(x * y for x, y in zip(a, b)) / len(a)\n\n\nanswer = mean_update",
        after="For a = [1, -1] and b = [1, -1] both updates are 1, and so is their average. Averaged factors give 0.",
        mistakes=(
            Mistake(
                lambda a, b: sum(a) / len(a) * sum(b) / len(b),
                "That averages A and B first and mixes factors of different adapters. Multiply first.",
            ),
            Mistake(
                lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)),
                "That is the sum of the updates. The average divides by their number.",
            ),
            Mistake(
                lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)) / len(a) ** 2,
                "One division by the number of adapters is enough: the products are averaged, not the factors.",
            ),
        ),
        probes=(([1.0, -1.0], [1.0, -1.0]), ([2.0, 0.0, 1.0], [3.0, 5.0, 1.0]), ([0.5, 4.0], [2.0, 1.0])),
    ),
    Exercise(
        id="14.4",
        level=2,
        minutes=8,
        hints=(
            "First one layer: rank times the sum of inputs and outputs.",
            "8 * (16384 + 7168) in each of 61 layers.",
        ),
        solution="answer = 61 * 8 * (16384 + 7168)",
        after="About 11.5 million, or 23 MB in BF16. One such matrix itself has 117 million weights.",
        mistakes=(
            Mistake(8 * (16384 + 7168), "That is one layer. There are 61."),
            Mistake(61 * 16384 * 7168, "That counts the frozen matrices. The adapter adds the sides, times the rank."),
            Mistake(61 * (16384 + 7168), "Where is the rank of 8?"),
            Mistake(61 * 8 * 16384, "That is A alone. B has the outputs."),
        ),
    ),
    Exercise(
        id="14.5",
        level=3,
        minutes=12,
        hints=(
            "Call the adapter numbers of one layer s. The heads hold (width + 1) * s, N adapters N * layers * s.",
            "N must be larger than (width + 1) / layers, and not equal to it.",
        ),
        solution="def tasks_needed(width, layers):\n    return (width + 1) // layers + 1\n\n\nanswer = tasks_needed",
        after="For DeepSeek-V3's 61 layers and a width of 64, two tasks are enough.",
        mistakes=(
            Mistake(
                lambda width, layers: (width + 1) // layers,
                "With that many tasks the adapters do not yet hold more numbers than the heads. Take one more.",
            ),
            Mistake(
                lambda width, layers: math.ceil((width + 1) / layers),
                "Try a width of 63 and 16 layers: four tasks only draw level, once each output's bias counts. "
                "Fewer numbers is asked.",
            ),
            Mistake(
                lambda width, layers: width + 2,
                "That is the naive layer. Here all layers of the model share the heads.",
            ),
        ),
        probes=((32, 5), (64, 61), (63, 16), (59, 61), (15, 4), (24, 5)),
    ),
)

QUIZ = (
    Question(
        text="A trained hypernetwork gets a ninth task, a new combination of the four features. What has to be "
        "stored for it?",
        options=(
            (
                "An adapter: 27,840 numbers more",
                "That is the price in a table of adapters. A hypernetwork writes this one from its description.",
            ),
            (
                "A descriptor: four numbers more",
                "The network is the same for all tasks. A feature that the descriptor cannot name would need a "
                "new training.",
            ),
            (
                "A head for it: one more output layer",
                "Heads belong to kinds of matrices, not to tasks. All tasks use the same ones.",
            ),
        ),
        right="b",
    ),
    Question(
        text="On which dialects does one shared adapter fall behind most?",
        options=(
            (
                "On loud ones, as they change most tokens",
                "Capitals and tabs show in every window, so the shared adapter sees which dialect it reads.",
            ),
            (
                "On all alike, as it has the fewest numbers",
                "It nearly keeps up on some. What it lacks is not numbers but the knowledge of the dialect.",
            ),
            (
                "On quiet ones, as the text seldom shows them",
                "An arrow comes every few lines only. Between them, the adapter must be prepared for either.",
            ),
        ),
        right="c",
    ),
    Question(
        text="Why can a naive hypernetwork write a LoRA for DeepSeek-V3, but hardly all of its weights?",
        options=(
            (
                "The last layer has 65 numbers for each it writes",
                "From 64 inputs, each output costs 64 weights and a bias: 65 times V3. Heads that layers share cost "
                "far less.",
            ),
            (
                "A descriptor is too short for so many weights",
                "It is as short for the adapter: four numbers write 27,840. The size of the writer is the trouble.",
            ),
            (
                "It can write matrices, but no fused experts",
                "It writes a long vector, which can be cut into any shapes. There would only be far too many numbers.",
            ),
        ),
        right="a",
    ),
    Question(
        text="Section 5 averages the updates of eight adapters. Why does this average do badly on unseen dialects?",
        options=(
            (
                "Each update has an eighth of its strength",
                "An update that a dialect needs is watered down by seven others. The sum of its features' "
                "adapters keeps full strength.",
            ),
            (
                "Averaged A and averaged B do not fit together",
                "That would be another mistake. Here the products BA are averaged, by stacking.",
            ),
            (
                "Eight adapters together have too high a rank",
                "The sum of two has a higher rank as well, and does well. A rank is room, not harm.",
            ),
        ),
        right="a",
    ),
)

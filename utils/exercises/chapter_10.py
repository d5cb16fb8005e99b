"""Exercises of chapter 10: shares, the price of a step, bytes of a training, cached features, better methods."""

from utils.exercises import Exercise, Mistake, Question


def _undominated(methods: dict, strict: bool = False) -> list:
    def better(a: tuple, b: tuple) -> bool:
        if strict:
            return a[0] > b[0] and a[1] < b[1]
        return a != b and a[0] >= b[0] and a[1] <= b[1]

    return sorted(n for n, own in methods.items() if not any(better(other, own) for other in methods.values()))


EXERCISES = (
    Exercise(
        id="10.1",
        level=1,
        minutes=4,
        hints=(
            "All parameters: the layers, and the embedding beside them.",
            "Trainable are 4 layers of 200 million. Divide by 40 layers of 200 million plus 500 million.",
        ),
        solution="answer = 100 * 4 * 200 / (40 * 200 + 500)",
        after="The share of the layers is 10 %; the embedding, which stays frozen, makes it a little less.",
        mistakes=(
            Mistake(10, "That is the share of the layers. The embedding counts as well."),
            Mistake(4 * 200 / 8500, "Right share, but the question asks for per cent."),
            Mistake(100 * 36 * 200 / 8500, "Those are the frozen layers."),
        ),
        tolerance=0.005,
    ),
    Exercise(
        id="10.2",
        level=2,
        minutes=7,
        hints=(
            "Call the forward work of one layer 1. Its backward work is 2, and only trained layers have it.",
            "A full step costs 3 * layers.",
        ),
        solution="def step_cost(layers, trained):\n"
        "    return (layers + 2 * trained) / (3 * layers)\n\n\nanswer = step_cost",
        after="Even a single trained layer pays for the whole forward pass, so a step never costs less than a third.",
        mistakes=(
            Mistake(lambda layers, trained: trained / layers, "The frozen layers still run forward."),
            Mistake(
                lambda layers, trained: (layers + trained) / (2 * layers),
                "The backward pass of a layer costs twice its forward pass: one product for the inputs, one for the "
                "weights.",
            ),
            Mistake(
                lambda layers, trained: 3 * layers / (layers + 2 * trained),
                "That is how many times faster the step is. The cost is its inverse.",
            ),
        ),
        probes=((30, 3), (24, 24), (61, 1)),
    ),
    Exercise(
        id="10.3",
        level=1,
        minutes=5,
        hints=(
            "Weights: all of them, 4 bytes each. Gradients: trained ones only.",
            "AdamW keeps two numbers of 4 bytes for each trained parameter.",
        ),
        solution="def training_bytes(total, trained):\n"
        "    return 4 * total + 4 * trained + 8 * trained\n\n\nanswer = training_bytes",
        after="Freezing saves three quarters of this sum at the most: the weights themselves stay.",
        mistakes=(
            Mistake(lambda total, trained: 16 * total, "That is the bill without freezing."),
            Mistake(lambda total, trained: 16 * trained, "The frozen weights must be in memory, too."),
            Mistake(
                lambda total, trained: 4 * total + 8 * trained, "Each trained parameter has a gradient, 4 bytes more."
            ),
        ),
        probes=((1000, 100), (135, 135), (671, 34)),
    ),
    Exercise(
        id="10.4",
        level=3,
        minutes=12,
        hints=(
            "Without a cache, each epoch costs forward work for all layers, and 2 more for each trained layer.",
            "With a cache, the frozen layers run once. After that an epoch costs 3 for each trained layer.",
        ),
        solution="def speed_up(layers, trained, epochs):\n"
        "    without = epochs * (layers + 2 * trained)\n"
        "    with_cache = (layers - trained) + epochs * 3 * trained\n"
        "    return without / with_cache\n\n\nanswer = speed_up",
        after="With many epochs the frozen part costs nearly nothing. LoRA cannot do this: it changes every layer.",
        mistakes=(
            Mistake(
                lambda layers, trained, epochs: (layers + 2 * trained) / (3 * trained),
                "Filling the cache costs one pass through the frozen layers.",
            ),
            Mistake(
                lambda layers, trained, epochs: (
                    epochs * (layers + 2 * trained) / (layers - trained + epochs * 2 * trained)
                ),
                "A trained layer also runs forward in every epoch: 3, not 2.",
            ),
            Mistake(
                lambda layers, trained, epochs: epochs * 3 * layers / (layers - trained + epochs * 3 * trained),
                "Compare with freezing without a cache: there, the frozen layers have no backward work either.",
            ),
        ),
        probes=((30, 3, 10), (24, 4, 1), (12, 1, 100)),
    ),
    Exercise(
        id="10.5",
        level=2,
        minutes=9,
        hints=(
            "A method is out if another one is at least as accurate and takes no more memory, and is not its equal.",
            "Compare each method with all others, then sort the names of what is left.",
        ),
        solution="def undominated(methods):\n"
        "    def beaten(own):\n"
        "        return any(o != own and o[0] >= own[0] and o[1] <= own[1] for o in methods.values())\n\n"
        "    return sorted(name for name, own in methods.items() if not beaten(own))\n\n\nanswer = undominated",
        after="This is the Pareto front. Which of its members you take depends on the memory that you have.",
        mistakes=(
            Mistake(
                lambda methods: [max(methods, key=lambda name: methods[name][0])],
                "That is the most accurate one. A cheaper method may be worse and still worth having.",
            ),
            Mistake(
                lambda methods: _undominated(methods, strict=True),
                "Equal accuracy for more memory is beaten, too: use at least and at most.",
            ),
            Mistake(
                lambda methods: sorted(set(methods) - set(_undominated(methods))),
                "Those are the beaten ones.",
            ),
            Mistake(
                lambda methods: sorted(
                    name
                    for name, own in methods.items()
                    if not any(o[0] >= own[0] and o[1] <= own[1] for n, o in methods.items() if n != name)
                ),
                "Two methods that are equal in both do not beat one another: both stay.",
            ),
            Mistake(
                lambda methods: [name for name in methods if name in _undominated(methods)],
                "Those are the names. Sort them.",
            ),
        ),
        probes=(
            ({"a": (0.70, 5), "b": (0.60, 1), "c": (0.65, 6), "d": (0.60, 2)},),
            ({"x": (0.5, 3), "y": (0.6, 3)},),
            ({"p": (0.9, 9), "q": (0.8, 8), "r": (0.7, 9)},),
            ({"v": (0.8, 4), "w": (0.7, 5), "u": (0.8, 4), "t": (0.9, 7)},),
        ),
    ),
)

QUIZ = (
    Question(
        text="You train the top layer of 30 and freeze the rest. Why is a step not 30 times as fast?",
        options=(
            (
                "The optimizer still updates all 30 layers",
                "A frozen weight has no optimizer state and is not updated. This part does shrink.",
            ),
            (
                "The backward pass still walks through all 30",
                "It ends at the lowest trained layer, here the top one. That is what freezing from below saves.",
            ),
            (
                "The forward pass still goes through all 30",
                "The forward pass is a third of a full step's work, and it stays. By work, the limit is a "
                "factor of three.",
            ),
        ),
        right="c",
    ),
    Question(
        text="You train one layer only, and move it from the top of the model to the bottom. What happens to "
        "the memory of training?",
        options=(
            (
                "It stays, as equally many weights are trained",
                "Gradients and optimizer state stay. But activations depend on how far down the backward pass "
                "must walk.",
            ),
            (
                "It grows, as the backward pass gets longer",
                "It must walk down through all 30 layers, and needs what the forward pass left there. LoRA has "
                "the same burden.",
            ),
            (
                "It falls, as the frozen layers keep nothing",
                "A frozen layer has no gradient of its own, but the way back through it still needs much of "
                "what it has computed.",
            ),
        ),
        right="b",
    ),
    Question(
        text="Somebody compares full training with the top 3 layers after 50 steps each, and full training "
        "wins. What is unfair?",
        options=(
            (
                "A step of full training costs far more time",
                "For the work of its 50 steps, the top layers could have taken many more. Section 4 gives "
                "everybody the same work.",
            ),
            (
                "Full training has used the larger data set",
                "With 50 steps of the same batch size, both have seen equally many diagnoses.",
            ),
            (
                "The top 3 layers begin from a worse model",
                "Both begin from the same model. What differs is the price of a step.",
            ),
        ),
        right="a",
    ),
    Question(
        text="Why is training only the top 3 layers no cheap choice for DeepSeek-V3?",
        options=(
            (
                "Its lower layers must not be frozen",
                "Any parameter can be frozen, also in a mixture. The cost lies in what is left to train.",
            ),
            (
                "Its top layers are mixtures, and huge",
                "Each holds 256 routed experts: three layers have 35 billion parameters, with gradients and "
                "optimizer state for all.",
            ),
            (
                "Its top layers are used by no token",
                "Every token passes every layer. It uses few of the experts in each, and that is another thing.",
            ),
        ),
        right="b",
    ),
)

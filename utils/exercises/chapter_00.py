"""Exercises of chapter 00: a first try at answering a value, looking something up, and writing a function."""

from utils.exercises import Exercise, Mistake, Question

EXERCISES = (
    Exercise(
        id="00.1",
        level=1,
        minutes=2,
        hints=(
            "A bfloat16 number takes 16 bits.",
            "16 bits are 2 bytes: multiply the number of parameters by 2.",
        ),
        solution="answer = 134_515_008 * 2  # 16 bits = 2 bytes a parameter",
        after="Memory for weights is parameters times bytes per parameter. You will use this in every chapter.",
        mistakes=(
            Mistake(134_515_008 * 4, "That is float32, 4 bytes a parameter. bfloat16 takes half of it."),
            Mistake(134_515_008 * 16, "That counts bits. A byte has 8 bits."),
            Mistake(134_515_008, "That is one byte a parameter. bfloat16 takes 16 bits."),
        ),
    ),
    Exercise(
        id="00.2",
        level=1,
        minutes=2,
        hints=(
            'catalog.get("DeepSeek-V2") gives the model; its .config is a dictionary.',
            'Look at .config["num_hidden_layers"].',
        ),
        solution='from utils import catalog\n\nanswer = catalog.get("DeepSeek-V2").config["num_hidden_layers"]',
        after="Configurations of real models are one call away, with their sources.",
        mistakes=(
            Mistake(27, "That is DeepSeek-V2-Lite, the small sister. Ask for DeepSeek-V2 itself."),
            Mistake(61, "That is DeepSeek-V3. Ask for DeepSeek-V2."),
            Mistake(5120, "That is the hidden size, the width of a layer. The question is how many layers."),
        ),
    ),
    Exercise(
        id="00.3",
        level=1,
        minutes=3,
        hints=(
            "A billion is a thousand million: 10**9.",
            "Divide by 10**9, and return the result instead of printing it.",
        ),
        solution="def to_billions(parameters):\n    return parameters / 10**9\n\n\nanswer = to_billions",
        after="Powers of 1000, not of 1024. Chapter 01 shows what the difference does to a claim.",
        mistakes=(
            Mistake(
                lambda parameters: parameters / 1024**3,
                "1024**3 is a gibi, 7.4 % more than a billion. Use 10**9.",
            ),
            Mistake(lambda parameters: parameters / 10**6, "10**6 gives millions. A billion is 10**9."),
            Mistake(
                lambda parameters: parameters // 10**9,
                "// throws the decimals away: 2.8 billion must not become 2. Use /.",
            ),
        ),
        probes=((2_800_000_000,), (671_026_404_352,), (1_234_567,)),
    ),
)

QUIZ = (
    Question(
        text="You build DeepSeek-V3 on the meta device, as in section 3. Which of these can you do with it?",
        options=(
            (
                "Let it write a short answer, slowly",
                "A meta tensor has a shape and no numbers, so nothing can be computed with it. Slow is not the "
                "problem; there are no weights.",
            ),
            (
                "Count the parameters of one layer",
                "A count needs only shapes, and shapes are all that the meta device keeps.",
            ),
            (
                "Read the largest weight of one layer",
                "That takes a weight's value. The meta device keeps shapes; the values were never loaded.",
            ),
        ),
        right="b",
    ),
    Question(
        text='Somebody calls verdict("C10", holds=False, ...), because the article looks wrong. What breaks the'
        " rules of section 4?",
        options=(
            (
                "The claim is not quoted word for word",
                "The ledger holds the claims in the course's own words. Quoting is not what makes a verdict.",
            ),
            (
                "One measurement is too few for a verdict",
                "A verdict may rest on one measurement. What counts is how its outcome comes about.",
            ),
            (
                "The outcome is typed in, not compared",
                "holds= must be the result of a comparison of what was measured with what was claimed, even "
                "where the outcome seems plain.",
            ),
        ),
        right="c",
    ),
    Question(
        text="A claim says: at least twice as fast. The pairs end with an interval from 1.8 to 2.3. What does the "
        "card say?",
        options=(
            (
                "Holds: the middle of the interval is above 2",
                "The middle is a guess. The interval says that the median may as well lie below 2.",
            ),
            (
                "Cannot be told here: 2 lies inside the interval",
                "The pairs do not agree on which side of 2 they are. A quieter machine may settle it.",
            ),
            (
                "Refuted: it starts below 2, so it is not shown",
                "Not shown is not refuted. A refutation needs the whole interval below 2.",
            ),
        ),
        right="b",
    ),
    Question(
        text="You ask the model the same question twice on the same machine, with do_sample=False. What about "
        "the second answer?",
        options=(
            (
                "It is the same as the first one",
                "Greedy decoding takes the most likely token each time. The same input gives the same tokens.",
            ),
            (
                "It differs in a word here and there",
                "That would be sampling, which draws from the likely tokens. do_sample=False turns it off.",
            ),
            (
                "It is longer, as the model has learned",
                "generate changes no weight and keeps nothing of the first question. Learning would need training.",
            ),
        ),
        right="a",
    ),
)

"""Where the instructions of a Dockerfile are, and its mistakes; the cases are those of Docker's reference."""

import pytest

from cli.dockerfile import instructions, mistake, place_of

TEXT = """# syntax=docker/dockerfile:1

ARG BASE=x
FROM $BASE AS one
  RUN echo a \\
    # a comment within

    && echo b
COPY <<EOF /file
RUN is no instruction here
EOF
RUN <<-END bash
  FROM neither
  END
copy --from=one a b
RUN echo a
"""


def test_instructions_are_found_where_they_are() -> None:
    found = [(one.line, one.column, one.keyword) for one in instructions(TEXT)]
    assert found == [
        (3, 1, "ARG"), (4, 1, "FROM"), (5, 3, "RUN"), (9, 1, "COPY"), (12, 1, "RUN"), (15, 1, "COPY"), (16, 1, "RUN"),
    ]  # fmt: skip
    assert [one.text for one in instructions(TEXT)][2] == "RUN echo a && echo b"
    assert mistake(TEXT) is None


def test_a_step_is_found_by_its_words_and_else_by_its_keyword() -> None:
    assert place_of(TEXT, "RUN echo a") == (16, 1)
    assert place_of(TEXT, "COPY --from=one a b") == (15, 1)
    assert place_of(TEXT, "FROM x AS one") == (4, 1)
    assert place_of(TEXT, "USER x") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM x\n\n RUNN y\n", (3, 2, "unknown instruction: RUNN (did you mean RUN?)")),
        ("FROM x\nFROB y\n", (2, 1, "unknown instruction: FROB (did you mean FROM?)")),
        ("FROM\n", (1, 1, "FROM requires at least one argument")),
        ("ARG A\nRUN y\n", (2, 1, "no build stage in current context")),
        ("# nothing\n", (1, 1, "file with no instructions")),
        ("# escape=`\nFROM x\nRUN a `\n  b\nCOPI c d", (5, 1, "unknown instruction: COPI (did you mean COPY?)")),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, said: tuple[int, int, str]) -> None:
    assert mistake(text) == said

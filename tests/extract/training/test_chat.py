"""Templates of chats."""

import pytest

import trainings
from actstore_extract.recipe.sections import RecipeError
from actstore_extract.training.chat import render
from actstore_extract.training.conversations import Turn


def test_templates_that_cannot_say_where_answers_are():
    words = trainings.words()
    with pytest.raises(RecipeError, match="writes a turn otherwise when others follow"):
        render(
            trainings.turns("a", "b", "c", "d"),
            words,
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
        )
    with pytest.raises(RecipeError, match="cannot write this conversation: Conversation roles must alternate"):
        render((Turn("gpt", "a"), Turn("gpt", "b")), words, None)
    words.chat_template = None
    with pytest.raises(RecipeError, match="no chat template: give one as chat_template"):
        render(trainings.turns("a", "b"), words, None)

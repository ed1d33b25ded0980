"""Templates of chats."""

import pytest

import trainings
from actstore_extract.recipe.sections import RecipeError
from actstore_extract.training.chat import render
from actstore_extract.training.conversations import Turn


def test_templates_that_cannot_say_where_answers_are(tuned, monkeypatch):
    model = tuned.model
    with pytest.raises(RecipeError, match="writes a turn otherwise when others follow"):
        render(
            trainings.turns("a", "b", "c", "d"),
            model,
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
        )
    with pytest.raises(RecipeError, match="cannot write this conversation: Conversation roles must alternate"):
        render((Turn("gpt", "a"), Turn("gpt", "b")), model, None)
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    with pytest.raises(RecipeError, match="no chat template: give one as chat_template"):
        render(trainings.turns("a", "b"), model, None)

"""The loss: its value, its gradients over pieces of a batch, and one that is no number."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

import tiny
import trainings
from actstore_extract.training import loop
from actstore_extract.training.conversations import Conversation
from actstore_extract.training.data import gather
from actstore_extract.training.loop import TrainingError
from actstore_extract.training.loss import losses
from actstore_extract.training.program import train_adapter


def test_loss_by_hand(tuned):
    """Mean over the tokens of a span, then over the spans of an example."""
    said = [
        Conversation("1", trainings.turns("<image> this is a", "seven .", "and this", "one"), "x"),
        Conversation("2", trainings.turns("<image> is a", "three"), "y"),
    ]
    examples = [tuned.encode(one, tiny.image(i)) for i, one in enumerate(said)]
    expected = []
    for example in examples:
        batch = tuned.model.collate([example.encoded])
        with torch.no_grad():
            chances = tuned.model.module(**batch.inputs).logits[0].double().log_softmax(-1)
        ids = example.encoded.layout.token_ids
        spans = [np.mean([-chances[i - 1, ids[i]].item() for i in range(start, stop)]) for start, stop in example.spans]
        expected.append(np.mean(spans))
    assert losses(tuned.model, examples).tolist() == pytest.approx(expected, abs=1e-5)
    assert losses(tuned.model, examples[::-1]).tolist() == pytest.approx(expected[::-1], abs=1e-5)


def test_gradients_are_gathered_over_the_whole_batch(folder, tmp_path):
    """Pieces of three and one, or all four at once: the same steps, though examples have one or two answers."""
    for size in "34":
        made = trainings.adapter_recipe(folder, f"training.micro_batch={size}")
        train_adapter(made, tmp_path / size, device="cpu")
    first, second = (trainings.weights(tmp_path / size) for size in "34")
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-5, rtol=0)
    logs = [trainings.log(tmp_path / size) for size in "34"]
    for column in ("loss", "gradient_norm"):
        assert logs[0][column].to_list() == pytest.approx(logs[1][column].to_list(), rel=1e-4)


def test_a_loss_that_is_no_number_stops(folder, tmp_path, monkeypatch):
    """The last good checkpoint is kept, and the batch is said."""
    seen = 0

    def exploding(model, examples):
        nonlocal seen
        seen += 1
        return losses(model, examples) * (float("nan") if seen == 8 else 1)

    out, made = tmp_path / "out", trainings.adapter_recipe(folder)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "losses", exploding)
        with pytest.raises(TrainingError, match="step 3: the loss is nan") as caught:
            train_adapter(made, out, device="cpu")
    assert f"the checkpoint of step 2 is kept in {out}" in str(caught.value)
    data, _ = gather(made.data, images_only=True, skip_bad=False)
    order = loop.Order(len(data), 4, 2, 475)
    names = [data.conversation(number)[0].sample_id for number in order.batch(3)]
    assert f"its batch: {', '.join(names)}" in str(caught.value)
    with safe_open(out / "checkpoint.state", "pt") as file:
        assert file.metadata()["step"] == "2"
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118
    assert train_adapter(made, out, device="cpu").finished

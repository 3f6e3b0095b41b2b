"""Models of others: loaded from safetensors, trained by our objectives, saved as transformers saves them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.fit import fit
from models.learn.initial_weights import initial_model
from models.objectives.losses import loss_for
from models.objectives.masked_token import masked_bits
from models.objectives.next_token import document_bits
from models.order.batch import Batch
from models.spec import FitSpec, ForeignConfig, MaskedToken, ModelConfig, StartingPoint
from models.text.foreign import Foreign, empty_foreign, load_foreign
from models.text.generate import continue_tokens
from models.text.identify import load_config
from models.text.model_folder import load_model, save_config, save_model
from models.text.transformer import Transformer
from tests.models.shards import file_bytes, stream_spec

VOCABULARY, T = 64, 16


SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=T, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            **SMALL,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=T,
        )
    )


def bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            **SMALL,
            num_attention_heads=2,
            max_position_embeddings=T,
        )
    )


def modernbert() -> Any:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    return ModernBertForMaskedLM(
        ModernBertConfig(
            **SMALL,
            num_attention_heads=2,
            max_position_embeddings=T,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=0,
            cls_token_id=0,
            sep_token_id=0,
        )
    )


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            **SMALL,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=2 * T,
        )
    )


def roberta() -> Any:
    from transformers import RobertaConfig, RobertaForMaskedLM

    return RobertaForMaskedLM(
        RobertaConfig(
            **SMALL,
            num_attention_heads=2,
            max_position_embeddings=T + 2,
            pad_token_id=1,
        )
    )


CAUSAL, MASKED = (gpt2, llama), (bert, modernbert, roberta)


def write(make: Callable[[], Any], folder: Path) -> Any:
    """The architecture with random weights, and its folder."""
    torch.manual_seed(3)
    theirs = make()
    theirs.save_pretrained(folder)
    return theirs.eval()


def spec_for(folder: Path, home: Path) -> FitSpec:
    """Continued pre-training of the model in the folder."""
    model = load_config(folder)
    spec = stream_spec(home, model=model, start=StartingPoint(folder=folder, digest="x"))
    if model.attention == "bidirectional":
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"objective": MaskedToken(mask_token=2)})})
    return spec


def a_batch(attention: str) -> Batch:
    tokens_BT1 = torch.randint(3, VOCABULARY, (4, T + 1), generator=torch.Generator().manual_seed(1))
    if attention == "causal":
        return Batch(tokens_BT1[:, :-1], tokens_BT1[:, 1:], torch.full((4,), T))
    tokens_BT, picked_BK = tokens_BT1[:, :-1], torch.tensor([[1, 9], [0, 5], [2, 15], [7, 8]])
    hidden_BT = tokens_BT.scatter(1, picked_BK, 2)
    return Batch(hidden_BT, tokens_BT.gather(1, picked_BK), torch.full((4,), T), picked_BK)


def their_logits(theirs: Any, tokens_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return theirs(input_ids=tokens_BT).logits


@pytest.mark.parametrize("make", [*CAUSAL, *MASKED])
def test_a_step_lowers_the_loss_and_transformers_loads_what_was_saved(make: Callable[[], Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    write(make, tmp_path / "given")
    spec = spec_for(tmp_path / "given", tmp_path)
    assert isinstance(spec.model, ForeignConfig) and spec.model.context_length == T
    model, loss, batch = initial_model(spec), loss_for(spec), a_batch(spec.model.attention)
    assert isinstance(model, Foreign)
    model.train()
    before = loss(model, batch)
    before.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert loss(model, batch) < before

    (tmp_path / "out").mkdir()
    save_model(tmp_path / "out", model, model.state_dict())
    auto: Any = AutoModelForCausalLM if spec.model.attention == "causal" else AutoModelForMaskedLM
    theirs, report = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        ours_BTV = model.logits(model(batch.tokens_BT))  # in training: no dropout
        assert torch.equal(ours_BTV, their_logits(theirs.eval(), batch.tokens_BT))
        again = load_model(tmp_path / "out")
        assert isinstance(again, Foreign) and again.config == spec.model
        assert torch.equal(again(batch.tokens_BT), ours_BTV)


@pytest.mark.parametrize("make", [gpt2, bert])
def test_equal_weights_are_equal_files(make: Callable[[], Any], tmp_path: Path) -> None:
    write(make, tmp_path / "given")
    model = load_model(tmp_path / "given")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, model, model.state_dict())
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"config.json", "model.safetensors"} <= set(files)
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


@pytest.mark.parametrize("make", [gpt2, bert])
def test_a_tied_weight_is_one_tensor_of_a_checkpoint(make: Callable[[], Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs = write(make, tmp_path / "given")
    model = load_model(tmp_path / "given")
    save_file(model.state_dict(), tmp_path / "checkpoint.safetensors")  # refuses tensors that share memory
    config = load_config(tmp_path / "given")
    assert isinstance(config, ForeignConfig)
    (tmp_path / "trunk").mkdir()
    save_config(tmp_path / "trunk", model)
    other = empty_foreign(tmp_path / "trunk", config)
    other.load_state_dict(load_file(tmp_path / "checkpoint.safetensors"))
    tokens_BT = torch.arange(T)[None]
    assert torch.equal(other.eval()(tokens_BT), their_logits(theirs, tokens_BT))
    assert len(model.state_dict()) == len(list(model.parameters()))


def test_padding_is_told_to_them(tmp_path: Path) -> None:
    theirs = write(bert, tmp_path)
    model = load_model(tmp_path)
    tokens_BT = torch.randint(3, VOCABULARY, (1, 7))
    padded_BT = torch.cat((tokens_BT, torch.zeros(1, 5, dtype=torch.int64)), dim=1)
    with torch.no_grad():
        ours_BTV = model(padded_BT, lengths_B=torch.tensor([7]))[:, :7]
    torch.testing.assert_close(ours_BTV, their_logits(theirs, tokens_BT), atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [*CAUSAL, *MASKED])
def test_documents_of_a_window_are_computed_as_if_alone(make: Callable[[], Any], tmp_path: Path) -> None:
    theirs = write(make, tmp_path)
    model = load_model(tmp_path)
    assert isinstance(model, Foreign) and model.keeps_documents_apart()
    tokens_1T = torch.randint(3, VOCABULARY, (1, T))
    with torch.no_grad():
        together = model(tokens_1T, torch.tensor([[0] * 5 + [1] * 8 + [2] * 3]))
    alone = torch.cat([their_logits(theirs, document) for document in tokens_1T.split([5, 8, 3], dim=1)], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_model_that_would_mix_documents_is_refused(tmp_path: Path) -> None:
    write(modernbert, tmp_path / "given")
    changed(tmp_path / "given", local_attention=8, sliding_window=8)
    spec = spec_for(tmp_path / "given", tmp_path)
    initial_model(spec)
    with pytest.raises(ValueError, match=f"documents of a window of {T} tokens apart: set document_mask to false"):
        initial_model(spec.model_copy(update={"data": spec.data.model_copy(update={"document_mask": True})}))


def test_they_are_scored_and_sampled_as_ours(tmp_path: Path) -> None:
    write(gpt2, tmp_path / "gpt2")
    write(bert, tmp_path / "bert")
    documents = [np.arange(3, 3 + size) for size in (1, 9, 40)]
    causal, masked = load_model(tmp_path / "gpt2"), load_model(tmp_path / "bert")
    np.testing.assert_allclose(
        document_bits(causal, documents, first=0, batch=1), document_bits(causal, documents, first=0), rtol=1e-5
    )
    bits, counts = masked_bits(masked, documents, mask_token=2)
    np.testing.assert_allclose(bits, masked_bits(masked, documents, mask_token=2, batch=1)[0], rtol=1e-5)
    assert counts.tolist() == [1, 1, 5]
    assert len(continue_tokens(causal, [0, 5], end_token=VOCABULARY, count=20, seed=1)) == 20


def test_continued_pre_training_stopped_anywhere_ends_in_the_same_bits(tmp_path: Path) -> None:
    write(gpt2, tmp_path / "given")
    whole, parts = (spec_for(tmp_path / "given", tmp_path / name) for name in ("whole", "parts"))
    assert fit(whole).finished
    stops = iter([False] * 6)
    assert not fit(parts, stop=lambda: next(stops, True)).finished
    assert fit(parts).first_step == 7
    assert file_bytes(parts.out) == file_bytes(whole.out)


def test_a_qwen3_becomes_our_own_transformer_of_any_window(tmp_path: Path) -> None:
    theirs = write(qwen3, tmp_path)
    config = load_config(tmp_path)
    assert isinstance(config, ModelConfig) and config.context_length == 2 * T
    shorter = config.model_copy(update={"context_length": T})
    spec = stream_spec(tmp_path / "home", model=shorter, start=StartingPoint(folder=tmp_path, digest="x"))
    model = initial_model(spec)
    assert isinstance(model, Transformer) and model.config == shorter
    tokens_BT = torch.arange(T)[None]
    with torch.no_grad():
        difference = model.logits(model(tokens_BT)) - their_logits(theirs, tokens_BT)
    assert difference.abs().max() <= 1e-5


def changed(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path, config: ForeignConfig) -> str:
    with pytest.raises(ValueError) as caught:
        load_foreign(folder, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_trained_is_refused_in_a_sentence(tmp_path: Path) -> None:
    write(gpt2, tmp_path / "gpt2")
    config = load_config(tmp_path / "gpt2")
    assert isinstance(config, ForeignConfig)
    assert "has no config.json" in refusal(tmp_path / "nowhere", config)
    longer = config.model_copy(update={"context_length": T + 1})
    assert f"a context of {T}, and {VOCABULARY} and {T + 1} are asked for" in refusal(tmp_path / "gpt2", longer)
    masked = config.model_copy(update={"attention": "bidirectional"})
    assert "cannot be trained on masked tokens" in refusal(tmp_path / "gpt2", masked)
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    assert "cannot be trained on next tokens" in refusal(tmp_path / "gpt2", config)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    theirs = write(gpt2, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    config = load_config(tmp_path)
    assert isinstance(config, ForeignConfig)
    assert "safetensors" in refusal(tmp_path, config)


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    write(gpt2, tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "modeling_own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    changed(
        tmp_path,
        model_type="own",
        auto_map={"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"},
    )
    config = load_config(tmp_path)
    assert isinstance(config, ForeignConfig)
    assert "cannot be trained" in refusal(tmp_path, config)
    assert not ran.exists()


def test_what_is_no_model_is_named_in_a_sentence(tmp_path: Path) -> None:
    for content, message in (
        ("{", "describes no model"),
        ('{"layers": -1}', "describes no model"),
        ('{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}', "neither a causal nor a masked"),
        ('{"model_type": "clip", "architectures": ["OwnForCausalLM"]}', "no model of one sequence of tokens"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            load_config(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_body_without_its_head_is_refused(tmp_path: Path) -> None:
    theirs = write(bert, tmp_path / "whole")
    theirs.bert.save_pretrained(tmp_path / "body")
    with pytest.raises(ValueError, match="neither a causal nor a masked"):
        load_config(tmp_path / "body")
    config = load_config(tmp_path / "body", "bidirectional")
    assert isinstance(config, ForeignConfig)
    assert "of its language model" in refusal(tmp_path / "body", config)


def test_a_model_that_sees_later_tokens_does_not_learn_to_predict_them(tmp_path: Path) -> None:
    write(bert, tmp_path)
    config = load_config(tmp_path, "causal")
    assert isinstance(config, ForeignConfig)
    assert "sees later tokens" in refusal(tmp_path, config)


def test_weights_must_come_from_a_folder(tmp_path: Path) -> None:
    write(gpt2, tmp_path / "given")
    spec = spec_for(tmp_path / "given", tmp_path)
    with pytest.raises(ValueError, match="name the folder of one to start from"):
        initial_model(spec.model_copy(update={"start": None}))
    shutil.rmtree(tmp_path / "given")
    with pytest.raises(ValueError, match="it has no config"):
        initial_model(spec)


def test_a_spec_of_either_model_survives_its_file(tmp_path: Path) -> None:
    write(gpt2, tmp_path / "given")
    for spec in (spec_for(tmp_path / "given", tmp_path), stream_spec(tmp_path)):
        assert FitSpec.model_validate_json(spec.model_dump_json()) == spec

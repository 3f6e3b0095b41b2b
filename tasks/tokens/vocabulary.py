"""What a tokenizer artifact answers whoever uses it: how texts become ids, and which ids mean something special.

Apart from the stage that makes tokenizers, so that a change to how they are trained reruns that stage and, where the
same tokenizer comes out, nothing else. Loading 32,768 tokens takes some 70 ms; transformers is not needed for it.
"""

import json
import re

import numpy as np
from tokenizers import Regex, Tokenizer, pre_tokenizers

from tasks.core.artifact import Artifact
from tasks.core.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


def load_tokenizer(tokenizer: Artifact) -> Tokenizer:
    """The tokenizer of an artifact.

    It encodes special tokens that are spelled out in a text as ordinary text: no document can end itself.
    """
    loaded = Tokenizer.from_file(str(tokenizer.path / TOKENIZER_FILE))
    loaded.encode_special_tokens = True
    for token in loaded.get_added_tokens_decoder().values():
        if token.special:
            _break_up(loaded, token.content)
    return loaded


def end_of_text_id(tokenizer: Artifact) -> int:
    """The id that ends every document; it also stands before the first token where a model needs a beginning."""
    return _special_id(tokenizer, "eos_token")


def padding_id(tokenizer: Artifact) -> int:
    """The id that fills up shorter sequences; the end of text where the tokenizer has none of its own (GPT-2)."""
    return _special_id(tokenizer, "pad_token")


def mask_id(tokenizer: Artifact) -> int:
    """The id that hides a token from a masked model.

    Raises UserError if the tokenizer has none.
    """
    return _special_id(tokenizer, "mask_token")


def count_ids(encoder: Tokenizer) -> int:
    """Ids that a model needs a row for: one more than the largest, since adopted tokenizers may leave some out."""
    return 1 + max(encoder.get_vocab().values())


def token_dtype(ids: int) -> type[np.unsignedinteger]:
    """The smallest type that holds this many ids: uint16 up to 65,536, else uint32."""
    return np.uint16 if ids <= 1 << 16 else np.uint32


def _special_id(tokenizer: Artifact, role: str) -> int:
    config = json.loads((tokenizer.path / CONFIG_FILE).read_bytes())
    named = config.get(role)
    for number, token in config["added_tokens_decoder"].items():
        if token["content"] == named:
            return int(number)
    raise UserError(
        f"The tokenizer {tokenizer.digest[:12]} has no {role.replace('_', ' ')}: train one of a kind that has it "
        "(wordpiece and unigram have a mask), or adopt one whose tokenizer_config.json names it."
    )


def _break_up(loaded: Tokenizer, special: str) -> None:
    """Cut words after the special token's first character where the model itself would put the token together.

    `encode_special_tokens` keeps tokens from being found in the text, but a Unigram model, for one, whose words end
    only at spaces still takes `</s>` for the best piece of the word `</s>`.
    """
    own, spelled = loaded.token_to_id(special), f"a{special} {special}"
    if own not in loaded.encode(spelled, add_special_tokens=False).ids:
        return
    cut = pre_tokenizers.Split(Regex(f"{re.escape(special[0])}(?={re.escape(special[1:])})"), behavior="isolated")
    before = loaded.pre_tokenizer
    loaded.pre_tokenizer = cut if before is None else pre_tokenizers.Sequence([before, cut])
    if own in loaded.encode(spelled, add_special_tokens=False).ids and before is not None:
        loaded.pre_tokenizer = before  # the token for unknown characters, and the text has some

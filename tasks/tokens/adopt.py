"""Takes over a tokenizer that was made elsewhere: its ids stay, its surroundings become those of a trained one.

Only files are read, never code (`auto_map` is left behind), and the two things in a published tokenizer.json that
silently destroy a corpus are switched off: truncation and padding, which sentence-embedding models ship switched on.
"""

import json
from pathlib import Path
from typing import Any

from blake3 import blake3
from tokenizers import AddedToken, Tokenizer

from tasks.core.errors import UserError
from tasks.tokens.vocabulary import CONFIG_FILE, TOKENIZER_FILE

SPECIALS_FILE = "special_tokens_map.json"  # where transformers before 5 kept the special tokens
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
KEPT = ("chat_template", "clean_up_tokenization_spaces", "model_max_length")
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""What ends a document in published tokenizers, for a tokenizer.json without its tokenizer_config.json."""


def fingerprints(path: Path) -> dict[str, str]:
    """BLAKE3 of each file that `adopt` reads, by its name.

    Raises UserError if there is no tokenizer at the path.
    """
    return {file.name: blake3(file.read_bytes()).hexdigest() for file in _files(path)}


def adopt(path: Path, end_of_text: str | None) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a tokenizer.json or of a folder with one, and what tokenizer_config.json says of it.

    Raises UserError if it cannot be read, or nothing in it ends a document.
    """
    first, *others = _files(path)
    try:
        adopted = Tokenizer.from_file(str(first))
        said = {file.name: json.loads(file.read_bytes()) for file in others}
    except Exception as error:  # the type that tokenizers raises
        raise UserError(
            f"The tokenizer at {first} cannot be read ({error}): give one that transformers saved."
        ) from error
    adopted.no_truncation()
    adopted.no_padding()
    named = {**said.get(SPECIALS_FILE, {}), **said.get(CONFIG_FILE, {})}
    config = {role: _content(named[role]) for role in ROLES if named.get(role)}
    known = adopted.get_vocab()
    usual = next((end for end in ENDS if end in known), None)
    end = end_of_text or config.get("eos_token") or config.get("sep_token") or usual
    if end is None or end not in known:
        missing = "does not say which token ends a document" if end is None else f"has no token {end}"
        raise UserError(
            f"The tokenizer at {first} {missing}: name one of its tokens as `end_of_text` of the tokenizer."
        )
    config = {role: token for role, token in config.items() if token in known}
    config |= {"eos_token": end, "pad_token": config.get("pad_token", end)}
    adopted.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in config.values()])
    config |= {key: named[key] for key in KEPT if key in named}
    return adopted, {"clean_up_tokenization_spaces": False, **config}


def _files(path: Path) -> list[Path]:
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"There is no {file}: give the path of a tokenizer.json or of a folder with one "
            "(`AutoTokenizer.from_pretrained(...).save_pretrained(folder)` writes it for older models)."
        )
    return [file, *(beside for name in (CONFIG_FILE, SPECIALS_FILE) if (beside := file.parent / name).is_file())]


def _content(token: str | dict[str, Any]) -> str:
    """A special token is written as its text or, with its options, as an object."""
    return token if isinstance(token, str) else token["content"]

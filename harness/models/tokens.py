"""A model's tokenizer: loaded and checked, its end tokens, and texts and messages as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.errors import UserError, first_line, printable
from harness.groups import ModelConfig
from harness.models.checks import FOLDER, source_of

READABLE = 0.9  # of a text's characters that must come back from its tokens

Message = dict[str, str]  # role, content


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with an end and a padding token.

    config: names the model, and those two tokens where the tokenizer does not.
    Raises UserError if it cannot be read, is empty, or has no such token.
    """
    ends = named_ends(config)
    return _tokenizer(config.path, tuple(ends), config.pad_token)


def named_ends(config: ModelConfig) -> list[str]:
    """The tokens that `model.end_token` names. Raises UserError where it is neither a token nor a list of them."""
    given = [] if config.end_token is None else config.end_token
    tokens = [given] if isinstance(given, str) else given
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"model.end_token={given}: expected a token or a list of tokens, for instance ['<|im_end|>']")
    return tokens


@lru_cache(maxsize=8)
def _tokenizer(path: str, ends: tuple[str, ...], pad: str | None) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source_of(path), trust_remote_code=False)
    except Exception as error:  # its files are data from outside, read by several libraries
        reason = printable(first_line(error))
        raise UserError(f"model.path={path}: no tokenizer ({reason}); expected {FOLDER}") from error
    vocabulary = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):
        raise UserError(f"model.path={path}: its tokenizer has no words; expected {FOLDER}")
    for key, name, tokens in (("end_token", "eos_token", ends), ("pad_token", "pad_token", (pad,) if pad else ())):
        for token in tokens:
            if token not in vocabulary:
                raise UserError(f"model.{key}={token}: not in the tokenizer of {path}; choose one of its tokens")
        if tokens:
            setattr(tokenizer, name, tokens[0])
        if getattr(tokenizer, name) is None:
            raise UserError(
                f"model.path={path}: its tokenizer has no {name}; give model.{key}=TOKEN, a token of its vocabulary"
            )
    return tokenizer


def end_tokens(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, *sources: Any) -> list[int]:
    """Ids of the tokens that end a response: those of model.end_token, else all that anything names.

    config: of the model.
    tokenizer: of the model.
    sources: its architecture and its generation config, each with an `eos_token_id` of one id or several.
    """
    named = named_ends(config)
    if named:
        return sorted({tokenizer.get_vocab()[token] for token in named})
    ids = {tokenizer.eos_token_id}
    for source in sources:
        found = getattr(source, "eos_token_id", None)
        ids |= set(found) if isinstance(found, list | tuple) else {found}
    return sorted(id for id in ids - {None} if 0 <= id < len(tokenizer))


def check_vocabulary(config: ModelConfig, architecture: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError for a tokenizer with more tokens than the model embeds.

    config: names the model, for the message.
    architecture: transformers' configuration of it.
    tokenizer: the one beside it.
    """
    embedded = architecture.get_text_config().vocab_size
    if len(tokenizer) > embedded:
        raise UserError(
            f"model.path={config.path}: the tokenizer has {len(tokenizer)} tokens, the model embeds {embedded}; "
            "they do not belong together"
        )


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Special tokens that begin or end a text or a turn: those with a role, and those that the chat template writes."""
    template = str(tokenizer.chat_template or "")
    roles = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    written = {str(token) for token in tokenizer.all_special_tokens if str(token) in template}
    return {str(token) for token in roles | written if token}


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that goes on: a tokenizer that appends its end token (add_eos_token) does not here."""
    ids = list(tokenizer.encode(text))
    end = tokenizer.eos_token_id
    if ids[-1:] == [end] and list(tokenizer.encode(text, add_special_tokens=False))[-1:] != [end]:
        ids.pop()
    return ids


def message_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], path: str) -> list[int]:
    """Token ids of a conversation and of the head of its answer, as the model's chat template has them.

    messages: role and content of each.
    path: of the model, for messages.
    Raises UserError where the template fails, or leaves out what the user says.
    """
    try:
        text: Any = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        ids: Any = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:  # a template is a programme from outside
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
        remedy = "model.template=plain" + (" or no model.system_prompt" if "system" in roles else "")
        reason = printable(first_line(error))
        raise UserError(
            f"model.template=chat: the template of {path} fails for {roles} ({reason}); use {remedy}"
        ) from error
    said = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    if _letters(said) not in _letters(text):
        raise UserError(
            f"model.template=chat: the template of {path} leaves out what the user says; use model.template=plain"
        )
    return list(ids)


def check_readable(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Raises UserError for a tokenizer whose vocabulary cannot say the prompts.

    config: names the model, for the message.
    texts: some prompts, before the template.
    """
    unknown = tokenizer.unk_token or ""
    for text in texts:
        read = str(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)))
        if len(_letters(read.replace(unknown, "") if unknown else read)) < READABLE * len(_letters(text)):
            raise UserError(
                f"model.path={config.path}: its tokenizer reads {_short(text)} as {_short(read)}; "
                "choose a model of the task's language (model=hf model.path=FOLDER)"
            )


def _letters(text: str) -> str:
    return "".join(text.split())


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return repr(line if len(line) <= 40 else line[:37] + "...")

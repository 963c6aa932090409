"""Problems → token ids, through the model's template."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from harness.errors import UserError
from harness.groups import ModelConfig
from harness.models.tokens import control_tokens, message_ids, text_ids
from harness.types import Problem


class PromptEncoder:
    """Turns a problem into the token ids that the model answers.

    tokenizer: the model's.
    config: template=plain takes the prompt as it is; chat wraps it, after system_prompt, in the chat template.
    Raises UserError for template=chat with a tokenizer that has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> None:
        if config.template == "chat" and not tokenizer.chat_template:
            raise UserError(f"model.template=chat: the tokenizer of {config.path} has no chat template; use plain")
        self._tokenizer = tokenizer
        self._config = config
        self._control = control_tokens(tokenizer)

    def __call__(self, problem: Problem) -> list[int]:
        """Token ids of the problem's prompt."""
        if self._config.template != "chat":
            if any(role == "assistant" for role, _ in self._turns(problem)):
                raise UserError(
                    "model.template=plain: a problem of several turns needs the model's chat template; add "
                    "model.template=chat"
                )
            return text_ids(self._tokenizer, problem.prompt)
        messages = [{"role": role, "content": content} for role, content in self._turns(problem)]
        if self._config.system_prompt and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self._config.system_prompt})
        return message_ids(self._tokenizer, messages, self._config.path)

    @staticmethod
    def _turns(problem: Problem) -> Sequence[tuple[str, str]]:
        """(role, content) of each message: those of the data, else the prompt as the user's only one."""
        return problem.data.get("messages") or [("user", problem.prompt)]

    def holds_control_token(self, problem: Problem) -> bool:
        """Whether the problem's own text would become a token that begins or ends a turn."""
        own = [problem.data["problem"]] if "problem" in problem.data else [text for _, text in self._turns(problem)]
        return any(token in str(text) for text in own for token in self._control)

    def text(self, problem: Problem) -> str:
        """The problem's prompt as the model sees it, special tokens included."""
        return str(self._tokenizer.decode(self(problem), clean_up_tokenization_spaces=False))

    def all(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Token ids of each problem's prompt."""
        return [self(problem) for problem in problems]

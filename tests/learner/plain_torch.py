"""Log-probabilities and gradients in plain torch, one sequence after the other, which the engine must equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from learner.batching import TrainingSequence
from learner.settings import LoraSettings, LossSettings

LOSS = LossSettings()
TERMS = LossSettings(
    ratio="decoupled",
    behaviour_cap=1.5,
    normalisation="tokens",
    kl_coefficient=0.05,
    kl_refresh_every=9,
    entropy_coefficient=0.02,
)
LORA = LoraSettings(rank=4, alpha=12, targets=("q_proj", "v_proj", "mlp.down_proj"))


def reference_logprobs(model, sequence: TrainingSequence, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities [R] of one unpadded sequence, the textbook way."""
    tokens = torch.from_numpy(np.concatenate([sequence.prompt_tokens, sequence.response_tokens]).astype(np.int64))
    logits = model(tokens.unsqueeze(0)).logits[0, :-1].float() / temperature
    logprobs = torch.log_softmax(logits, -1).gather(-1, tokens[1:, None])[:, 0]
    return logprobs[len(sequence.prompt_tokens) - 1 :]


def response_distribution(model, sequence: TrainingSequence, temperature: float) -> torch.Tensor:
    """Log-probabilities [R, vocabulary] of every token at each place of the response."""
    tokens = torch.from_numpy(np.concatenate([sequence.prompt_tokens, sequence.response_tokens]).astype(np.int64))
    logits = model(tokens.unsqueeze(0)).logits[0, :-1].float() / temperature
    return torch.log_softmax(logits, -1)[len(sequence.prompt_tokens) - 1 :]


def reference_gradient(path: Path, sequences: list[TrainingSequence], normaliser: float, temperature: float):
    """Gradient of the policy loss by name, from a loop over single sequences without DeepSpeed or padding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    for s in sequences:
        logprobs = reference_logprobs(model, s, temperature)
        ratio = (logprobs - torch.from_numpy(s.behaviour_logprobs)).exp()
        clipped = ratio.clamp(1 - LOSS.clip_low, 1 + LOSS.clip_high)
        (-torch.minimum(ratio * s.advantage, clipped * s.advantage).sum() / normaliser).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def terms_gradient(path: Path, reference_path: Path, sequences: list[TrainingSequence], temperature: float):
    """Gradient of the step's whole loss by name, from a loop over single sequences."""
    from transformers import AutoModelForCausalLM

    def load(directory: Path) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()

    model = load(path)
    terms_loss(model, load(reference_path), sequences, temperature)
    return {name: p.grad for name, p in model.named_parameters()}


def terms_loss(model, reference: torch.nn.Module, sequences: list[TrainingSequence], temperature: float) -> None:
    """Backward of the step's whole loss, one sequence after the other."""
    tokens = sum(len(s.response_tokens) for s in sequences)
    for s in sequences:
        logprobs, each = reference_logprobs(model, s, temperature), response_distribution(model, s, temperature)
        with torch.no_grad():
            before = reference_logprobs(reference, s, temperature)
        weight = (logprobs.detach() - torch.from_numpy(s.behaviour_logprobs)).exp().clamp(max=1.5)
        loss = -(weight * s.advantage * logprobs).sum() / (7.0 * tokens / len(sequences))
        loss = loss + 0.05 / len(sequences) * ((logprobs - before) ** 2).sum() / 2
        loss = loss + 0.02 / tokens * (each.exp() * each).sum()
        loss.backward()


def adapter_gradient(path: Path, moved: Path, sequences: list[TrainingSequence], temperature: float):
    """Gradient by A and B of the loss of the model with the weights W + (alpha / rank) B A."""
    from safetensors.torch import load_file
    from torch.func import functional_call
    from transformers import AutoModelForCausalLM

    factors = {n: t.requires_grad_() for n, t in load_file(moved / "adapter" / "adapter_model.safetensors").items()}
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    model.requires_grad_(False)

    def adapted(tokens: torch.Tensor):
        weights = dict(model.named_parameters())
        for name in [n for n in factors if ".lora_A." in n]:
            weight = name.removeprefix("base_model.model.").replace(".lora_A", "")
            change = factors[name.replace("lora_A", "lora_B")] @ factors[name]
            weights[weight] = weights[weight] + LORA.alpha / LORA.rank * change
        return functional_call(model, weights, (tokens,))

    terms_loss(adapted, model, sequences, temperature)
    rename = lambda n: n.removeprefix("base_model.model.").replace(".weight", ".default.weight")  # noqa: E731
    return {rename(name): factor.grad for name, factor in factors.items()}
